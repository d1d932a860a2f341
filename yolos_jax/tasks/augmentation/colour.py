"""Colour operations, which do not change sizes or boxes. Their parameters are integers, so that plans are
identical on all machines."""

import dataclasses

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageFilter

from yolos_jax.data.augment import Operation
from yolos_jax.data.examples import Example

UNCHANGED = 1000  # a factor of 1, in thousandths
ENHANCED = {
    "brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast, "saturation": ImageEnhance.Color,
}  # fmt: skip


class ColourOperation(Operation):
    """Changes pixel values but not positions."""

    def boxes(self, example: Example, numbers: np.ndarray) -> Example:
        return example


@dataclasses.dataclass(frozen=True)
class Factor(ColourOperation):
    """Scales an image property by a factor; Pillow clips the results to 0..255.

    `brightness` scales all values, `contrast` their differences from the image's mean luma, and `saturation` their
    differences from the pixel's luma. Numbers: the factor in thousandths.
    """

    spread: float  # at most 1; the factor is drawn uniformly from 1 - spread to 1 + spread
    name: str = "brightness"  # one of `ENHANCED`

    def draw(self, sizes: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        most = round(self.spread * UNCHANGED)
        return UNCHANGED + whole(random.random((len(sizes), 1)), -most, most), sizes

    def pixels(self, image: Image.Image, numbers: np.ndarray) -> Image.Image:
        if numbers[0] == UNCHANGED:
            return image
        return ENHANCED[self.name](image).enhance(int(numbers[0]) / UNCHANGED)


@dataclasses.dataclass(frozen=True)
class Hue(ColourOperation):
    """Rotates the hue. Numbers: the rotation in steps of 1/256 of the circle, Pillow's resolution."""

    spread: float  # fraction of the circle; the rotation is drawn uniformly from -spread to spread
    name: str = "hue"

    def draw(self, sizes: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        most = round(self.spread * 256)
        return whole(random.random((len(sizes), 1)), -most, most), sizes

    def pixels(self, image: Image.Image, numbers: np.ndarray) -> Image.Image:
        if not numbers[0]:
            return image
        hue, saturation, value = image.convert("HSV").split()
        turned = ImageChops.add_modulo(hue, Image.new("L", image.size, int(numbers[0]) % 256))
        return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


@dataclasses.dataclass(frozen=True)
class Greyscale(ColourOperation):
    """Converts to greyscale (ITU-R 601 luma) with a given probability. Numbers: 1 if converted, else 0."""

    probability: float
    name: str = "greyscale"

    def draw(self, sizes: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return (random.random((len(sizes), 1)) < self.probability).astype(np.int32), sizes

    def pixels(self, image: Image.Image, numbers: np.ndarray) -> Image.Image:
        return image.convert("L").convert("RGB") if numbers[0] else image


@dataclasses.dataclass(frozen=True)
class Blur(ColourOperation):
    """Gaussian blur, applied with a given probability. Numbers: standard deviation in 1/100 pixel; 0 for no blur."""

    probability: float
    most: float  # in pixels; the standard deviation is drawn uniformly from 0.01 to this value
    name: str = "blur"

    def draw(self, sizes: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        u = random.random((len(sizes), 2))
        deviation = whole(u[:, 1:], 1, round(100 * self.most))
        return np.where(u[:, :1] < self.probability, deviation, 0).astype(np.int32), sizes

    def pixels(self, image: Image.Image, numbers: np.ndarray) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(int(numbers[0]) / 100)) if numbers[0] else image


def whole(u: np.ndarray, least: int, most: int) -> np.ndarray:
    """Maps uniform random numbers in [0, 1) to int32 values from `least` to `most`, inclusive."""
    return (least + np.floor(u * (most - least + 1))).astype(np.int32)
