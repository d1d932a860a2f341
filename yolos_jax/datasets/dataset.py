"""A split of a data set for detection. No jax here."""

import dataclasses
import functools
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from yolos_jax.data.examples import Example, ExampleTable
from yolos_jax.datasets.annotations import Content, PackedImages
from yolos_jax.datasets.box_checks import nothing_to_find
from yolos_jax.datasets.orientation import ExifDecision
from yolos_jax.images.reading import UnreadableImage, decode, decoding, open_rgb
from yolos_jax.user_files import MOST_IMAGE, read_bytes


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A split of a data set, in whatever layout it lies on disk; `read_split` makes it.

    Sending it to another process sends no annotations.
    """

    examples: ExampleTable  # what training sees, in the order of the annotations' images
    label_names: dict[int, str]  # of each label that the categories list
    category_ids: tuple[int, ...]  # of every label 0..num_classes - 1
    num_classes: int
    layout: str  # such as "COCO" or "Pascal VOC"
    origin: str  # where the annotations come from, for messages
    image_folder: Path
    notes: tuple[str, ...]  # what the user should know, a sentence each
    dropped: dict[str, int]  # boxes left out of the examples, as "crowd" and as "empty"
    clipped: int  # boxes that reach out of their image, empty ones included
    exif: ExifDecision  # images that EXIF turns, and how they are read
    stretch: bool  # whether an image's own maximum of 16 bits becomes white
    content: Callable[[], Content] | None  # gives the annotations; None in another process
    packed: PackedImages | None = None  # images that lie in no files of their own
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)  # paths of images, by other spellings
    # (ground truth, results of COCO's format, image ids) -> the layout's own numbers by name, beside COCO's
    own_metrics: Callable[[dict, list[dict], list[int]], dict[str, float]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"content": None, "renamed": {}}

    def read(self, example: Example) -> Image.Image:
        """The RGB image; `UnreadableImage` if it is damaged or not of the annotated size."""
        if self.packed is None:
            image = open_rgb(example.file, self.exif.upright, self.stretch)
        else:
            with decoding(f"the image {example.file}"):
                data = self.packed[example.image_id]
                image = decode(io.BytesIO(data), self.exif.upright, self.stretch)
        return check_size(image, example)

    def file_bytes(self, example: Example) -> bytes:
        """The encoded image; `UnreadableImage` if it is absent."""
        with decoding(f"the image {example.file}"):
            if self.packed is not None:
                return self.packed[example.image_id]
            return read_bytes(example.file, "the image", MOST_IMAGE)

    def nothing_to_train_on(self) -> str | None:
        """Why there is no box to train on; None if there is one."""
        return nothing_to_find(self.dropped, int(self.examples.counts.sum()), self.origin)

    def nothing_to_score(self) -> str | None:
        """Why there is no box to score; None if there is one. Empty boxes count, as they do when results are scored."""
        boxes = int(self.examples.counts.sum()) + self.dropped["empty"]
        return nothing_to_find(self.dropped, boxes, self.origin)

    def place(self, file_name: str) -> str:
        """One spelling for every image that the annotations list, however its folder and name are written."""
        if self.packed is not None:
            return f"{file_name} of {self.packed}"
        if file_name in self.renamed:
            file_name = os.path.relpath(self.renamed[file_name], self.image_folder)
        return os.path.normpath(os.path.join(self._folder, file_name))

    @functools.cached_property
    def _folder(self) -> str:
        return os.path.realpath(self.image_folder)

    def ground_truth(self) -> Content:
        """Images, annotations and categories in COCO's format, usable or not, crowds included."""
        if self.content is None:
            raise RuntimeError("the annotations stayed in the process that read them")
        return self.content()


def check_size(image: Image.Image, example: Example) -> Image.Image:
    """The image itself; `UnreadableImage` if it is not of the annotated size."""
    if image.size == (example.width, example.height):
        return image
    sizes = f"is {image.width}x{image.height} pixels but its annotation says {example.width}x{example.height}"
    if image.size[::-1] == (example.width, example.height):
        perhaps = " (perhaps annotated as turned by its EXIF tag: see data.upright)"
    else:
        perhaps = "; data.sizes=images takes sizes from the images"
    raise UnreadableImage(f"{example.file} (image id {example.image_id}) {sizes}{perhaps}.")
