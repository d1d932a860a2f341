"""Augmentation: what happens to an image as numbers first, then to its pixels and boxes.

The reference's: a horizontal flip; then either a random short side, or a first
size, a random crop and a random short side. The numbers of an image are a
function of (seed, epoch, index) and need no pixels, so the length of every
sequence is known before anything is decoded.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from yolos_jax.data.examples import Example
from yolos_jax.errors import InputError
from yolos_jax.images.sequence import Geometry, resized_sizes

DRAWS = 8  # random numbers of an image


class Views(NamedTuple):
    """What is done to images, in this order; arrays over images, or of a single one.

    Attributes:
      flip: bool `[n]`, mirrored left to right.
      first: int32 `[n, 2]`, (width, height) resized to before the crop; zeros for no such step.
      crop: int32 `[n, 4]`, (left, top, width, height) in pixels; zeros for none.
      size: int32 `[n, 2]`, final (width, height); zeros to leave the size.
    """

    flip: np.ndarray
    first: np.ndarray
    crop: np.ndarray
    size: np.ndarray

    def of(self, index: int | list[int] | np.ndarray) -> "Views":
        """The views of some images, or of one."""
        return Views(*(field[index] for field in self))

    def patches(self, patch: int) -> np.ndarray:
        """Number of patches of every final image."""
        return (self.size // patch).prod(-1)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How random views are drawn (the reference's numbers are in `yolos_jax/settings.py`).

    Attributes:
      scales: short sides in pixels, drawn uniformly.
      max_side: most pixels of the long side after the last resize.
      flip, crop: probabilities.
      crop_sides: short sides before a crop, drawn uniformly; the long side is not bounded.
      crop_range: least and most pixels of a crop's width and height, both included.
      patch: patch size in pixels.
    """

    scales: tuple[int, ...]
    max_side: int
    flip: float = 0.5
    crop: float = 0.5
    crop_sides: tuple[int, ...] = (400, 500, 600)
    crop_range: tuple[int, int] = (384, 600)
    patch: int = 16

    def __post_init__(self) -> None:
        for name in ("scales", "crop_sides", "crop_range"):
            values = getattr(self, name)
            if not values or any(type(v) is not int or v < self.patch for v in values):
                raise InputError(
                    f"data.{name} is {values!r}; it needs whole pixels of at least a patch ({self.patch})."
                )
        for name in ("flip", "crop"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"data.{name} is {getattr(self, name)!r}; it is a probability, 0 to 1.")
        if len(self.crop_range) != 2 or self.crop_range[0] > self.crop_range[1]:
            raise InputError(f"data.crop_range is {self.crop_range!r}; it needs the least and the most pixels.")

    def views(self, sizes: np.ndarray, seed: int, epoch: int) -> Views:
        """Draws a view for every image.

        Args:
          sizes: int `[n, 2]`, (width, height) of the images.
          seed, epoch: with an image's index they decide its view.
        """
        # Row i is the same however many images follow: numbers are drawn row by row.
        u = np.random.default_rng([seed, epoch, 0]).random((len(sizes), DRAWS))

        def pick(column: int, choices: Sequence[int]) -> np.ndarray:
            return np.asarray(choices)[(u[:, column] * len(choices)).astype(np.int64)]

        def whole(column: int, least: int | np.ndarray, most: np.ndarray) -> np.ndarray:
            return least + (u[:, column] * (most - least + 1)).astype(np.int64)

        flip, cropped = u[:, 0] < self.flip, u[:, 1] < self.crop
        sizes = np.asarray(sizes, np.int64).reshape(-1, 2)
        first = resized_sizes(sizes, pick(2, self.crop_sides), None, self.patch)
        least, most = self.crop_range
        width = whole(3, np.minimum(least, first[:, 0]), np.minimum(most, first[:, 0]))
        height = whole(4, np.minimum(least, first[:, 1]), np.minimum(most, first[:, 1]))
        left, top = whole(5, 0, first[:, 0] - width), whole(6, 0, first[:, 1] - height)
        crop = np.stack([left, top, width, height], axis=1)
        before = np.where(cropped[:, None], crop[:, 2:], sizes)
        size = resized_sizes(before, pick(7, self.scales), self.max_side, self.patch)
        first, crop = (np.where(cropped[:, None], field, 0).astype(np.int32) for field in (first, crop))
        return Views(flip, first, crop, size.astype(np.int32))

    def most_patches(self, sizes: np.ndarray) -> int:
        """A bound of the patches of any view of these images."""
        shapes = np.asarray(sizes, np.int64).reshape(-1, 2)
        if self.crop:
            least = min(self.crop_range[0], min(self.crop_sides) // self.patch * self.patch)  # small before the crop
            side = np.arange(least, self.crop_range[1] + 1)
            shapes = np.concatenate([shapes, np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)])
        shapes = np.unique(shapes, axis=0)
        # Every scale: where the long side bounds a large one, a smaller may give more patches.
        return max(
            int((resized_sizes(shapes, scale, self.max_side, self.patch) // self.patch).prod(1).max())
            for scale in self.scales
        )


def plain_views(sizes: np.ndarray, geometry: Geometry) -> Views:
    """No augmentation: every image resized as for evaluation."""
    size = geometry.sizes(sizes).astype(np.int32)
    none = np.zeros((len(size), 6), np.int32)
    return Views(np.zeros(len(size), bool), none[:, :2], none[:, 2:], size)


def view_pixels(image: Image.Image, view: Views) -> np.ndarray:
    """Applies one view to an RGB image: uint8 `[height, width, 3]`. Pillow's bilinear filter, as the reference."""
    if view.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if view.first[0]:
        image = _resize(image, view.first)
    if view.crop[2]:
        left, top, width, height = (int(v) for v in view.crop)
        image = image.crop((left, top, left + width, top + height))
    if view.size[0]:
        image = _resize(image, view.size)
    return np.asarray(image)


def _resize(image: Image.Image, size: np.ndarray) -> Image.Image:
    wanted = int(size[0]), int(size[1])
    return image if image.size == wanted else image.resize(wanted, Image.Resampling.BILINEAR)


def view_example(example: Example, view: Views) -> Example:
    """Applies one view to boxes, labels and areas; boxes that a crop leaves empty are dropped.

    float32 step by step, as the reference goes, which makes the boxes equal to
    its own to the last bit. After a crop the area is the box's, as there.
    """
    size, boxes, labels, area = (example.width, example.height), example.boxes, example.labels, example.area
    if view.flip:
        boxes = boxes[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32) + np.array(
            [size[0], 0, size[0], 0], np.float32
        )
    if view.first[0]:
        boxes, area, size = _scaled(boxes, area, size, view.first)
    if view.crop[2]:
        left, top, width, height = (int(v) for v in view.crop)
        boxes = boxes - np.array([left, top, left, top], np.float32)
        boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
        boxes, labels, area, size = boxes[keep], labels[keep], area[keep], (width, height)
    if view.size[0]:
        boxes, area, size = _scaled(boxes, area, size, view.size)
    return dataclasses.replace(example, width=size[0], height=size[1], boxes=boxes, labels=labels, area=area)


def _scaled(
    boxes: np.ndarray, area: np.ndarray, old: tuple[int, int], new: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Boxes, areas and size after resizing from `old` to `new` (width, height)."""
    x, y = int(new[0]) / old[0], int(new[1]) / old[1]
    return boxes * np.array([x, y, x, y], np.float32), area * np.float32(x * y), (int(new[0]), int(new[1]))


def normalized_boxes(example: Example) -> np.ndarray:
    """float32 `[n, 4]` cxcywh as fractions of the image's sides."""
    x0, y0, x1, y1 = example.boxes.T
    boxes = np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], axis=1)
    return boxes / np.array([example.width, example.height, example.width, example.height], np.float32)
