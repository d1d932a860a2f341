"""The examples that every source yields, and the batches for training. No jax here."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Example:
    """The annotations of one image, without its pixels."""

    image_id: int  # as in the source
    file: str  # path of the image, for messages
    width: int  # pixels
    height: int
    boxes: np.ndarray  # float32 [n, 4]: xyxy in pixels, non-empty, inside the image
    labels: np.ndarray  # int32 [n]
    area: np.ndarray  # float32 [n]: annotated area in square pixels


class ExampleTable(Sequence[Example]):
    """Examples stored in a few arrays: cheap to keep, to hash and to send to another process.

    Attributes:
      image_ids: int64 `[n]`.
      sizes: int64 `[n, 2]`, (width, height) of the images in pixels.
      counts: int64 `[n]`, boxes per image.
      boxes, labels, areas: those of all images, concatenated; see `Example`.
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
        """A hash of ids, sizes, boxes, labels and areas, in order, without the files' paths."""
        digest = hashlib.sha256()
        for array in (self.image_ids, self.sizes, self.counts, self.boxes, self.labels, self.areas):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


class Source(Protocol):
    """A data source for the loader: examples without pixels, names of labels, and pixels on request."""

    @property
    def examples(self) -> ExampleTable:
        """The annotations of all images."""

    @property
    def label_names(self) -> dict[int, str]:
        """The names of the listed labels."""

    def read(self, example: Example) -> Image.Image:
        """The RGB image; `UnreadableImage` if it is damaged or not of the annotated size."""


class TrainBatch(NamedTuple):
    """A batch of sequences with targets; numpy or jax arrays. `patches` and `grid` are as in `sequence.Batch`."""

    patches: np.ndarray  # uint8 [B, N, 3 p p]
    grid: np.ndarray  # int32 [B, 2]
    labels: np.ndarray  # int32 [B, M]; -1 where there is no box
    boxes: np.ndarray  # float32 [B, M, 4]: cxcywh in 0..1
    count: np.ndarray  # type: ignore[assignment]  # int32 [B]: boxes per image; hides tuple.count
    valid: np.ndarray  # bool [B]: False for slots without an image
