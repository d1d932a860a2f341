"""A split of a detection data set. Does not import jax."""

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
    """A split of a detection data set in any layout, returned by `read_split`.

    The annotations are not pickled.
    """

    examples: ExampleTable  # for training, in the order of the listed images
    label_names: dict[int, str]  # category name of each label
    category_ids: tuple[int, ...]  # category id of each label 0..num_classes - 1
    num_classes: int
    layout: str  # such as "COCO" or "Pascal VOC"
    origin: str  # source of the annotations, for messages
    image_folder: Path
    notes: tuple[str, ...]  # messages for the user
    dropped: dict[str, int]  # number of boxes omitted from the examples for each reason, "crowd" or "empty"
    clipped: int  # number of boxes that extend beyond their image, including empty ones
    exif: ExifDecision  # images with an EXIF rotation, and how they are read
    stretch: bool  # whether 16-bit images are scaled so that their maximum becomes white
    content: Callable[[], Content] | None  # returns the annotations; None in other processes
    packed: PackedImages | None = None  # images that are not stored as separate files
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)  # maps misspelled file names to paths
    # (ground truth, results in COCO format, image ids) -> dict of layout-specific metrics, in addition to COCO metrics
    own_metrics: Callable[[dict, list[dict], list[int]], dict[str, float]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"content": None, "renamed": {}}

    def read(self, example: Example) -> Image.Image:
        """Reads an RGB image; raises `UnreadableImage` if it is damaged or its size differs from the annotation."""
        if self.packed is None:
            image = open_rgb(example.file, self.exif.upright, self.stretch)
        else:
            with decoding(f"the image {example.file}"):
                data = self.packed[example.image_id]
                image = decode(io.BytesIO(data), self.exif.upright, self.stretch)
        return check_size(image, example)

    def file_bytes(self, example: Example) -> bytes:
        """Reads the encoded image; raises `UnreadableImage` if it does not exist."""
        with decoding(f"the image {example.file}"):
            if self.packed is not None:
                return self.packed[example.image_id]
            return read_bytes(example.file, "the image", MOST_IMAGE)

    def nothing_to_train_on(self) -> str | None:
        """Returns the reason why there are no boxes to train on, or None if there are some."""
        return nothing_to_find(self.dropped, int(self.examples.counts.sum()), self.origin)

    def nothing_to_score(self) -> str | None:
        """Returns the reason why there are no boxes to score, or None if there are some. Empty boxes are scored."""
        boxes = int(self.examples.counts.sum()) + self.dropped["empty"]
        return nothing_to_find(self.dropped, boxes, self.origin)

    def place(self, file_name: str) -> str:
        """Returns the canonical path of a listed image."""
        if self.packed is not None:
            return f"{file_name} in {self.packed}"
        if file_name in self.renamed:
            file_name = os.path.relpath(self.renamed[file_name], self.image_folder)
        return os.path.normpath(os.path.join(self._folder, file_name))

    @functools.cached_property
    def _folder(self) -> str:
        return os.path.realpath(self.image_folder)

    def ground_truth(self) -> Content:
        """Returns the images, annotations and categories in COCO format, including crowds and unusable boxes."""
        if self.content is None:
            raise RuntimeError("the annotations are not available in other processes")
        return self.content()


def check_size(image: Image.Image, example: Example) -> Image.Image:
    """Returns the image; raises `UnreadableImage` if its size differs from the annotation."""
    if image.size == (example.width, example.height):
        return image
    sizes = f"is {image.width}x{image.height} pixels but is annotated as {example.width}x{example.height}"
    if image.size[::-1] == (example.width, example.height):
        perhaps = " (the annotation may refer to the image rotated by its EXIF tag: see data.upright)"
    else:
        perhaps = "; set data.sizes=images to read sizes from the images"
    raise UnreadableImage(f"{example.file} (image id {example.image_id}) {sizes}{perhaps}.")
