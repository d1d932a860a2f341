"""Reads a prepared TFDS data set for classification, such as `imagenet2012`, without TensorFlow."""

import hashlib
import io
from pathlib import Path

from PIL import Image

from yolos_jax.datasets.class_folders import lacking_note, match_classes, spread
from yolos_jax.datasets.tfds.records import Records
from yolos_jax.images.reading import UnreadableImage, decode, decoding


class ClassRecords(Records):
    """A `ClassSource` for one split of a TFDS data set whose records have an `image` and a `label`.

    Args:
      directory: the folder with `dataset_info.json`.
      split: the name of the split, or another common name for it.
      max_images, classes: see `class_folders.ClassFolders`.
    """

    fields = {"image": "Image", "label": "ClassLabel"}  # noqa: RUF012
    kind, names_file = "a classification data set such as imagenet2012", "label.labels.txt"

    def __init__(
        self, directory: Path, split: str, max_images: int = 0, classes: tuple[tuple[str, ...], str] | None = None
    ):
        super().__init__(directory, split)
        self.origin = str(self)
        self.names, self._label_of, notes = match_classes(tuple(self.names), self.origin, classes)
        self.notes = (*notes, *lacking_note(self.names, self._label_of, self.origin))
        self._chosen = spread(super().__len__(), max_images)

    def __len__(self) -> int:
        return len(self._chosen)

    def name(self, index: int) -> str:
        """Returns a description of an image's record, for messages."""
        return f"record {self._chosen[index]} of {self.origin}"

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Returns (an RGB image, its class); raises `UnreadableImage` if it is damaged."""
        with decoding(f"the image of {self.name(index)}"):
            record = self._decoded(int(self._chosen[index]), "labelled")
            label = int(record["label"])
            if not 0 <= label < len(self._label_of):
                raise UnreadableImage(f"its label is {label}, outside 0..{len(self._label_of) - 1}.")
            return decode(io.BytesIO(record["image"])), self._label_of[label]

    def fingerprint(self) -> str:
        """Returns a hash of the classes, the names and sizes of the shards, and the number of images in use."""
        shards = [(shard.name, shard.stat().st_size) for shard in self.shards]
        return hashlib.sha256(repr((list(self.names), shards, len(self))).encode()).hexdigest()[:16]
