"""Augmentation operations, which draw random numbers and apply them to pixels and boxes.

Numbers are drawn for all images at once, using only image sizes, so all sequence lengths are known before decoding.
The name of an operation seeds its generator, so adding an operation does not change the numbers drawn by others. Each
operation augments a single image. Mosaics are not supported, because a sequence would depend on several images.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from yolos_jax.data.examples import Example
from yolos_jax.errors import InputError
from yolos_jax.images.sequence import Geometry, most_patches, resized, resized_sizes


class Views(NamedTuple):
    """The augmentation of `n` images, or of a single image (without axis n)."""

    numbers: tuple[np.ndarray, ...]  # int32 [n, k] for each operation; see the docstrings of the operations
    size: np.ndarray  # int32 [n, 2]: final (width, height) in pixels

    def of(self, index: int | list[int] | np.ndarray) -> "Views":
        """Selects the views of one or several images."""
        return Views(tuple(numbers[index] for numbers in self.numbers), self.size[index])

    def patches(self, patch: int) -> np.ndarray:
        """Returns the number of patches of each augmented image."""
        return (self.size // patch).prod(-1)


class Operation(Protocol):
    """One step of a pipeline. Its `name` is part of the random seed."""

    @property
    def name(self) -> str: ...

    def ratio(self, sizes: np.ndarray) -> float:
        """Returns the largest possible ratio of long to short side after the operation; 0 if it keeps aspect ratios."""
        return 0.0

    def draw(self, sizes: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draws numbers, int32 `[n, k]`, for images of `sizes` (width, height), int64 `[n, 2]`. Also returns new sizes.

        Row i must not depend on the number of rows after it, so draw all random numbers of an image as one row.
        """

    def pixels(self, image: Image.Image, numbers: np.ndarray) -> Image.Image:
        """Augments an RGB image; `numbers` is the row `[k]` that `draw` returned for it."""

    def boxes(self, example: Example, numbers: np.ndarray) -> Example:
        """Augments boxes, labels, areas and size in the same way, bit-identical to the reference in float32."""


@dataclasses.dataclass(frozen=True)
class Flip(Operation):
    """Flips an image horizontally with a given probability. Numbers: 1 if flipped, else 0."""

    probability: float = 0.5
    name: str = "flip"

    def draw(self, sizes: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return (random.random((len(sizes), 1)) < self.probability).astype(np.int32), sizes

    def pixels(self, image: Image.Image, numbers: np.ndarray) -> Image.Image:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if numbers[0] else image

    def boxes(self, example: Example, numbers: np.ndarray) -> Example:
        if not numbers[0]:
            return example
        sign = np.array([-1, 1, -1, 1], np.float32)
        shift = np.array([example.width, 0, example.width, 0], np.float32)
        return dataclasses.replace(example, boxes=example.boxes[:, [2, 1, 0, 3]] * sign + shift)


@dataclasses.dataclass(frozen=True)
class Crop(Operation):
    """Resizes an image and crops a random rectangle, with a given probability.

    As in the reference, boxes that become empty are dropped, and areas are recomputed from the cropped boxes.
    Numbers: (width, height) after resizing, then (left, top, width, height) of the crop; all zeros if not applied.
    """

    probability: float = 0.5
    sides: tuple[int, ...] = (400, 500, 600)  # short sides in pixels before cropping, drawn uniformly
    range: tuple[int, int] = (384, 600)  # bounds of the crop's width and height in pixels, inclusive
    patch: int = 16  # patch size in pixels
    name: str = "crop"

    def __post_init__(self) -> None:
        _check_sides("crop_sides", self.sides, self.patch)
        _check_sides("crop_range", self.range, self.patch)
        if len(self.range) != 2 or self.range[0] > self.range[1]:
            raise InputError(f"data.crop_range is {self.range!r}; it must be the minimum and maximum number of pixels.")

    def ratio(self, sizes: np.ndarray) -> float:
        least = min(self.range[0], min(self.sides) // self.patch * self.patch)  # an image may be smaller than the crop
        return self.range[1] / least if self.probability else 0.0

    def draw(self, sizes: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        u = random.random((len(sizes), 6))

        def whole(column: int, least: int | np.ndarray, most: np.ndarray) -> np.ndarray:
            return least + (u[:, column] * (most - least + 1)).astype(np.int64)

        chosen = u[:, :1] < self.probability
        first = resized_sizes(sizes, _pick(u[:, 1], self.sides), None, self.patch)
        least, most = self.range
        width = whole(2, np.minimum(least, first[:, 0]), np.minimum(most, first[:, 0]))
        height = whole(3, np.minimum(least, first[:, 1]), np.minimum(most, first[:, 1]))
        left = whole(4, 0, first[:, 0] - width)
        top = whole(5, 0, first[:, 1] - height)
        cut = np.stack([*first.T, left, top, width, height], axis=1)
        return np.where(chosen, cut, 0).astype(np.int32), np.where(chosen, cut[:, 4:], sizes)

    def pixels(self, image: Image.Image, numbers: np.ndarray) -> Image.Image:
        if not numbers.any():
            return image
        columns, rows, left, top, width, height = (int(v) for v in numbers)
        return resized(image, (columns, rows)).crop((left, top, left + width, top + height))

    def boxes(self, example: Example, numbers: np.ndarray) -> Example:
        if not numbers.any():
            return example
        return cut_out(_scaled(example, numbers[:2]), numbers[2:])


@dataclasses.dataclass(frozen=True)
class Resize(Operation):
    """Resizes an image to a random short side, drawn uniformly, and to whole patches (see `resized_sizes`).

    With a single short side, as in evaluation, the size is not random. Numbers: the final (width, height).
    """

    short_sides: tuple[int, ...]  # in pixels
    max_side: int  # maximum long side in pixels
    patch: int = 16  # patch size in pixels
    name: str = "resize"

    def __post_init__(self) -> None:
        _check_sides("scales", self.short_sides, self.patch)

    def draw(self, sizes: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        side = _pick(random.random(len(sizes)), self.short_sides)
        size = resized_sizes(sizes, side, self.max_side, self.patch)
        return size.astype(np.int32), size

    def pixels(self, image: Image.Image, numbers: np.ndarray) -> Image.Image:
        return resized(image, (int(numbers[0]), int(numbers[1])))

    def boxes(self, example: Example, numbers: np.ndarray) -> Example:
        return _scaled(example, numbers)


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """The operations applied to an image, in order: `before`, a resize to whole patches, then `after`.

    Operations in `after` are applied to the resized image and must keep its size.
    """

    resize: Resize
    before: tuple[Operation, ...] = ()
    after: tuple[Operation, ...] = ()

    def __post_init__(self) -> None:
        names = [operation.name for operation in self.operations]
        if len(set(names)) < len(names):
            raise ValueError(f"operations with the same name would share random numbers: {', '.join(names)}")

    @classmethod
    def of(cls, geometry: Geometry) -> "Pipeline":
        """Returns a pipeline without augmentation, which resizes images as in evaluation."""
        return cls(Resize((geometry.short_side,), geometry.max_side, geometry.patch))

    @property
    def operations(self) -> tuple[Operation, ...]:
        return (*self.before, self.resize, *self.after)

    @property
    def patch(self) -> int:
        return self.resize.patch

    def views(self, sizes: np.ndarray, seed: int, epoch: int) -> Views:
        """Draws a view for each image; `sizes` is int `[n, 2]`, (width, height).

        The random numbers depend only on the seed, epoch, name of the operation and index of the image.
        """
        sizes = np.asarray(sizes, np.int64).reshape(-1, 2)
        numbers = []
        for operation in self.operations:
            drawn, sizes = operation.draw(sizes, np.random.default_rng([seed, epoch, *operation.name.encode()]))
            numbers.append(drawn)
        return Views(tuple(numbers), sizes.astype(np.int32))

    def longest(self, sizes: np.ndarray) -> int:
        """Returns an upper bound on the number of patches of any view of images of these sizes."""
        patch, most = self.patch, self.resize.max_side
        sizes = np.unique(np.asarray(sizes, np.int64).reshape(-1, 2), axis=0)
        ratio = max(operation.ratio(sizes) for operation in self.operations)
        found = []
        for side in self.resize.short_sides:  # with `max_side`, a smaller short side may result in more patches
            counts = (resized_sizes(sizes, side, most, patch) // patch).prod(1)
            found += [int(counts.max()), most_patches(side, most, patch, ratio)]
        return max(found)

    def pixels(self, image: Image.Image, view: Views) -> np.ndarray:
        """Applies one view to an RGB image. Returns uint8 `[height, width, 3]`."""
        for operation, numbers in zip(self.operations, view.numbers):
            image = operation.pixels(image, numbers)
        return np.asarray(image)

    def boxes(self, example: Example, view: Views) -> Example:
        """Applies one view to boxes, labels, areas and size."""
        for operation, numbers in zip(self.operations, view.numbers):
            example = operation.boxes(example, numbers)
        return example


def cut_out(example: Example, rectangle: np.ndarray) -> Example:
    """Crops an example to (left, top, width, height), drops empty boxes and recomputes areas."""
    left, top, width, height = (int(v) for v in rectangle)
    boxes = example.boxes - np.array([left, top, left, top], np.float32)
    boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
    kept = {"boxes": boxes[keep], "labels": example.labels[keep], "area": area[keep]}
    return dataclasses.replace(example, width=width, height=height, **kept)


def normalized_boxes(example: Example) -> np.ndarray:
    """Returns boxes as float32 `[n, 4]` cxcywh, relative to the image size."""
    x0, y0, x1, y1 = example.boxes.T
    boxes = np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], axis=1)
    return boxes / np.array([example.width, example.height, example.width, example.height], np.float32)


def _check_sides(setting: str, sides: tuple[int, ...], patch: int) -> None:
    """Raises `InputError` for sides smaller than a patch."""
    if not sides or min(sides) < patch:
        raise InputError(f"data.{setting} is {sides!r}; values must be at least one patch ({patch} pixels).")


def _pick(u: np.ndarray, choices: Sequence[int]) -> np.ndarray:
    """Maps random numbers, uniform in 0..1, to choices."""
    return np.asarray(choices)[(u * len(choices)).astype(np.int64)]


def _scaled(example: Example, size: np.ndarray) -> Example:
    """Scales boxes and areas for an image resized to `size` (width, height)."""
    width, height = int(size[0]), int(size[1])
    x, y = width / example.width, height / example.height
    boxes = example.boxes * np.array([x, y, x, y], np.float32)
    area = example.area * np.float32(x * y)
    return dataclasses.replace(example, width=width, height=height, boxes=boxes, area=area)
