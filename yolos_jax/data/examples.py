"""The schema that every source yields, and the batch that training eats. No jax here."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Example:
    """One picture and what is in it, without its pixels.

    Attributes:
      image_id: the source's id.
      file: where the pixels are, for messages.
      width, height: of the picture in pixels.
      boxes: float32 `[n, 4]` absolute xyxy, inside the picture, none empty.
      labels: int32 `[n]` category ids.
      area: float32 `[n]` annotated area in square pixels.
    """

    image_id: int
    file: str
    width: int
    height: int
    boxes: np.ndarray
    labels: np.ndarray
    area: np.ndarray


class Source(Protocol):
    """A data set: examples without pixels, label names, and pixels on request."""

    examples: Sequence[Example]
    label_names: dict[int, str]

    def read(self, example: Example) -> Image.Image:
        """The RGB picture; `UnreadableImage` if it cannot be had."""


class TrainBatch(NamedTuple):
    """A batch of sequences with targets; numpy or jax arrays.

    Attributes:
      patches: uint8 `[B, N, 3 p p]`, grid: int32 `[B, 2]`; see `sequence.Batch`.
      labels: int32 `[B, M]`, boxes: float32 `[B, M, 4]` cxcywh in 0..1, count: int32 `[B]`.
      valid: bool `[B]`, False for slots without an image.
    """

    patches: np.ndarray
    grid: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    count: np.ndarray
    valid: np.ndarray


def normalized_boxes(example: Example, size: tuple[int, int]) -> np.ndarray:
    """float32 `[n, 4]` cxcywh as fractions of the picture's sides after resizing to (width, height).

    Resizing changes these fractions by rounding only; float32 step by step, as
    the reference goes, makes them equal to the last bit.
    """
    ratio = np.array([size[0] / example.width, size[1] / example.height] * 2, np.float32)
    x0, y0, x1, y1 = (example.boxes * ratio).T
    boxes = np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], axis=1)
    return boxes / np.array([*size, *size], np.float32)


def pack_targets(
    examples: Sequence[Example], sizes: Sequence[tuple[int, int]], batch_size: int, most: int
) -> dict[str, np.ndarray]:
    """The target fields of a `TrainBatch`.

    Args:
      examples: at most `batch_size`, each of at most `most` boxes.
      sizes: (width, height) in pixels that each picture is resized to.
    """
    out = {
        "labels": np.full((batch_size, most), -1, np.int32),
        "boxes": np.zeros((batch_size, most, 4), np.float32),
        "count": np.zeros(batch_size, np.int32),
        "valid": np.arange(batch_size) < len(examples),
    }
    for i, (example, size) in enumerate(zip(examples, sizes)):
        n = len(example.labels)
        out["labels"][i, :n], out["boxes"][i, :n], out["count"][i] = example.labels, normalized_boxes(example, size), n
    return out
