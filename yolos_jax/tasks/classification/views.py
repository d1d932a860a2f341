"""Views of images for classification: random views for training, centre crops for evaluation.

The parameters of a view are drawn before the image is decoded and depend only on its seed; see `plan.ViewSeeds`.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from yolos_jax.data.settings import ClassViewSettings
from yolos_jax.tasks.classification.random_augment import MOST, NAMES, operate

ATTEMPTS = 10  # attempts to draw a rectangle that fits, before the fallback is used
RATIO = (3 / 4, 4 / 3)  # bounds of a crop's width / height
ERASED_AREA = (0.02, 1 / 3)  # bounds of an erased box's area, relative to the image
ERASED_RATIO = (0.3, 1 / 0.3)  # bounds of an erased box's height / width
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of the noise in erased boxes
_BICUBIC = Image.Resampling.BICUBIC


class View(NamedTuple):
    """The parameters of one view."""

    crop: np.ndarray  # float64 [ATTEMPTS, 4] in 0..1: area, ratio, left, top of each rectangle to try
    flip: bool
    operations: tuple[tuple[int, float, bool], ...]  # of RandAugment, in order of application; see `operate`
    box: tuple[int, int, int, int]  # erased box (left, top, width, height) in pixels; zeros if there is none
    noise: int  # seed of the noise in the erased box


@dataclasses.dataclass(frozen=True)
class RandomView(ClassViewSettings):
    """DeiT's augmentation: random resized crop, flip, RandAugment, random erasing. All interpolation is bicubic.

    `draw` draws the parameters of a view; `pixels` turns an RGB image of any size into uint8 `[size, size, 3]`.
    """

    size: int = 224  # side in pixels

    def draw(self, random: np.random.Generator) -> View:
        # The order of these lines determines the random numbers.
        crop = random.random((ATTEMPTS, 4))
        flip = bool(random.random() < self.flip)
        chosen = random.random((self.operations, 3)).tolist()
        magnitudes = self.magnitude + self.deviation * random.standard_normal(self.operations)
        strengths = (np.clip(magnitudes, 0.0, MOST) / MOST).tolist()
        operations = []
        for (which, done, negative), strength in zip(chosen, strengths):
            if done < self.chance:
                operations.append((int(which * len(NAMES)), strength, negative < 0.5))
        erased = random.random() < self.erase
        tries = random.random((ATTEMPTS, 4))
        box = erased_box(tries, self.size) if erased else (0, 0, 0, 0)
        return View(crop, flip, tuple(operations), box, int(random.integers(2**63)))

    def pixels(self, image: Image.Image, view: View) -> np.ndarray:
        left, top, width, height = cropped_box(view.crop, image.size, self.crop_area)
        image = image.crop((left, top, left + width, top + height)).resize((self.size, self.size), _BICUBIC)
        if view.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for operation in view.operations:
            image = operate(image, *operation)
        left, top, width, height = view.box
        if not width:
            return np.asarray(image)
        pixels = np.array(image)
        noise = np.random.default_rng(view.noise).standard_normal((height, width, 3), np.float32)
        noise = 255.0 * (noise * np.array(STD, np.float32) + np.array(MEAN, np.float32))
        pixels[top : top + height, left : left + width] = np.clip(np.rint(noise), 0, 255)
        return pixels


@dataclasses.dataclass(frozen=True)
class CentreView:
    """The view for evaluation: a bicubic resize of the short side, then a centre crop."""

    size: int = 224  # side in pixels
    share: float = 0.875  # `size` / the short side before the crop

    def draw(self, random: np.random.Generator) -> View:
        return View(np.zeros((0, 4)), False, (), (0, 0, 0, 0), 0)

    def pixels(self, image: Image.Image, view: View) -> np.ndarray:
        short, (width, height) = max(self.size, math.floor(self.size / self.share)), image.size
        size = max(short, int(short * width / height)), max(short, int(short * height / width))
        # Only the middle of extremely long images is used, so only the middle is resized.
        if max(size) > _LONGEST * short:
            image = _middle(image)
            size = (_LONGEST * short, short) if width > height else (short, _LONGEST * short)
        image = image if image.size == size else image.resize(size, _BICUBIC)
        left, top = (round((side - self.size) / 2) for side in size)
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)))


_LONGEST = 50  # maximum ratio of the long side to the short side in evaluation


def _middle(image: Image.Image) -> Image.Image:
    """Crops a very long image to its middle, with an aspect ratio of `_LONGEST`."""
    width, height = (min(side, _LONGEST * min(image.size)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def cropped_box(tries: np.ndarray, size: tuple[int, int], least: float) -> tuple[int, int, int, int]:
    """(left, top, width, height) of the first rectangle that fits into an image of (width, height) `size`.

    Relative areas are uniformly distributed from `least` to 1, and the logarithms of aspect ratios within `RATIO`. If
    no rectangle fits, returns the largest centred rectangle with a ratio within `RATIO`.
    """
    width, height = size
    low, high = (math.log(bound) for bound in RATIO)
    for area, ratio, left, top in tries.tolist():
        area, ratio = (least + (1.0 - least) * area) * width * height, math.exp(low + (high - low) * ratio)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(left * (width - w + 1)), int(top * (height - h + 1)), w, h
    w = min(width, max(1, round(height * RATIO[1])))
    h = min(height, max(1, round(width / RATIO[0])))
    return (width - w) // 2, (height - h) // 2, w, h


def erased_box(tries: np.ndarray, size: int) -> tuple[int, int, int, int]:
    """(left, top, width, height) of the first box with sides shorter than `size` pixels; zeros if there is none."""
    low, high = (math.log(bound) for bound in ERASED_RATIO)
    for area, ratio, left, top in tries.tolist():
        area = (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * area) * size * size
        ratio = math.exp(low + (high - low) * ratio)
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w < size and 0 < h < size:
            return int(left * (size - w + 1)), int(top * (size - h + 1)), w, h
    return 0, 0, 0, 0
