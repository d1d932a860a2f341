"""Geometric augmentation operations."""

import dataclasses

import numpy as np
from PIL import Image

from yolos_jax.data.augment import Flip, Operation, cut_out
from yolos_jax.data.examples import Example

_TURNS = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)


@dataclasses.dataclass(frozen=True)
class VerticalFlip(Flip):
    """Flips an image upside down with a given probability. Numbers: 1 if flipped, else 0."""

    name: str = "vertical_flip"

    def pixels(self, image: Image.Image, numbers: np.ndarray) -> Image.Image:
        return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if numbers[0] else image

    def boxes(self, example: Example, numbers: np.ndarray) -> Example:
        if not numbers[0]:
            return example
        sign = np.array([1, -1, 1, -1], np.float32)
        shift = np.array([0, example.height, 0, example.height], np.float32)
        return dataclasses.replace(example, boxes=example.boxes[:, [0, 3, 2, 1]] * sign + shift)


@dataclasses.dataclass(frozen=True)
class QuarterTurn(Operation):
    """Rotates an image by 0, 90, 180 or 270 degrees with equal probability. Numbers: counterclockwise quarter turns."""

    name: str = "quarter_turn"

    def draw(self, sizes: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        quarters = (random.random((len(sizes), 1)) * 4).astype(np.int32)
        return quarters, np.where(quarters % 2, sizes[:, ::-1], sizes)

    def pixels(self, image: Image.Image, numbers: np.ndarray) -> Image.Image:
        turn = _TURNS[int(numbers[0])]
        return image if turn is None else image.transpose(turn)

    def boxes(self, example: Example, numbers: np.ndarray) -> Example:
        for _ in range(int(numbers[0])):
            x0, y0, x1, y1 = example.boxes.T
            width = np.float32(example.width)
            boxes = np.stack([y0, width - x1, y1, width - x0], axis=1)
            example = dataclasses.replace(example, width=example.height, height=example.width, boxes=boxes)
        return example


@dataclasses.dataclass(frozen=True)
class Zoom(Operation):
    """With a given probability, crops a random rectangle with the image's aspect ratio; the resize then enlarges it.

    As in any crop, empty boxes are dropped, and the areas of the other objects are recomputed from their boxes.
    Numbers: (left, top, width, height) of the rectangle in pixels; all zeros if not applied.
    """

    probability: float
    least: float  # the crop keeps a fraction of each side, drawn uniformly from this value to 1
    name: str = "zoom"

    def ratio(self, sizes: np.ndarray) -> float:
        return float((sizes.max(1) / sizes.min(1)).max())  # the aspect ratio of a crop never exceeds that of its image

    def draw(self, sizes: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        u = random.random((len(sizes), 4))
        least = round(1000 * self.least)
        share = least + (u[:, 1] * (1001 - least)).astype(np.int64)  # in thousandths
        short = -(-sizes.min(1) * share // 1000)  # rounded up
        long = np.maximum(sizes.max(1) * share // 1000, short)
        wide = sizes[:, 0] >= sizes[:, 1]
        cut = np.stack([np.where(wide, long, short), np.where(wide, short, long)], axis=1)
        corner = (u[:, 2:] * (sizes - cut + 1)).astype(np.int64)
        chosen = u[:, :1] < self.probability
        numbers = np.where(chosen, np.concatenate([corner, cut], axis=1), 0)
        return numbers.astype(np.int32), np.where(chosen, cut, sizes)

    def pixels(self, image: Image.Image, numbers: np.ndarray) -> Image.Image:
        if not numbers.any():
            return image
        left, top, width, height = (int(v) for v in numbers)
        return image.crop((left, top, left + width, top + height))

    def boxes(self, example: Example, numbers: np.ndarray) -> Example:
        return cut_out(example, numbers) if numbers.any() else example
