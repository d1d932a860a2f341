"""Examples, training batches, and the protocol for data sources. Does not import jax."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Example:
    """The annotations of one image, without its pixels."""

    image_id: int  # id of the image in the source
    file: str  # path of the image, or its name for messages
    width: int  # in pixels
    height: int  # in pixels
    boxes: np.ndarray  # float32 [n, 4]: xyxy in pixels, non-empty, inside the image
    labels: np.ndarray  # int32 [n]
    area: np.ndarray  # float32 [n]: annotated area in square pixels


class ExampleTable(Sequence[Example]):
    """Examples stored in a few arrays, so that they need little memory and are cheap to hash and pickle.

    Attributes:
      image_ids: int64 `[n]`.
      sizes: int64 `[n, 2]`, (width, height) of the images in pixels.
      counts: int64 `[n]`, number of boxes per image.
      boxes, labels, areas: arrays of all examples, concatenated; see `Example`.
    """

    def __init__(self, examples: Sequence[Example]):
        self.image_ids = np.array([e.image_id for e in examples], np.int64)
        self.sizes = np.array([(e.width, e.height) for e in examples], np.int64).reshape(-1, 2)
        self.counts = np.array([len(e.labels) for e in examples], np.int64)
        self.boxes = np.concatenate([np.zeros((0, 4), np.float32), *(e.boxes for e in examples)])
        self.labels = np.concatenate([np.zeros(0, np.int32), *(e.labels for e in examples)])
        self.areas = np.concatenate([np.zeros(0, np.float32), *(e.area for e in examples)])
        self._files, self._end = [e.file for e in examples], np.cumsum(self.counts)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]  # no slices
        index = range(len(self))[index]
        mine = slice(int(self._end[index] - self.counts[index]), int(self._end[index]))
        width, height = (int(v) for v in self.sizes[index])
        values = self.boxes[mine], self.labels[mine], self.areas[mine]
        return Example(int(self.image_ids[index]), self._files[index], width, height, *values)

    def fingerprint(self) -> str:
        """Returns a hash of ids, sizes, boxes, labels and areas, and of their order; excludes file paths."""
        digest = hashlib.sha256()
        for array in (self.image_ids, self.sizes, self.counts, self.boxes, self.labels, self.areas):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


class Source(Protocol):
    """A data source for the loader, which reads images on demand."""

    @property
    def examples(self) -> ExampleTable:
        """The annotations of all images."""

    @property
    def label_names(self) -> dict[int, str]:
        """The category name of each label."""

    def read(self, example: Example) -> Image.Image:
        """Reads an RGB image; raises `UnreadableImage` if it is damaged or its size differs from the annotation."""


class TrainBatch(NamedTuple):
    """A batch of sequences with targets, as NumPy or JAX arrays. `patches` and `grid` are as in `sequence.Batch`."""

    patches: np.ndarray  # uint8 [B, N, 3 p p]
    grid: np.ndarray  # int32 [B, 2]
    labels: np.ndarray  # int32 [B, M]; -1 for padding
    boxes: np.ndarray  # float32 [B, M, 4]: cxcywh in 0..1
    count: np.ndarray  # type: ignore[assignment]  # int32 [B]: number of boxes per image; hides tuple.count
    valid: np.ndarray  # bool [B]: False for slots without an image
