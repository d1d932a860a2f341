"""A prepared TFDS data set with the records of `coco/2017`: the same examples as from the COCO folder."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from yolos_jax.data.annotations import Complain, read_annotations, stop
from yolos_jax.data.coco_names import COCO_NAMES
from yolos_jax.data.examples import Example
from yolos_jax.data.labels import Labels
from yolos_jax.data.sources.coco import check_size, read_examples
from yolos_jax.data.tfds.index import Index, index_of
from yolos_jax.data.tfds.records import Records, find_dataset
from yolos_jax.errors import InputError
from yolos_jax.images.reading import DAMAGED, UnreadableImage, to_rgb

ABOUT_RECORDS = (
    "boxes come from the records of {}, where areas are whole numbers: APs, APm, APl and ARs, ARm, ARl may differ a "
    "little from those by COCO's annotation file; set data.train_annotations and data.val_annotations to use one"
)


class TfdsSource:
    """Examples of one split of a TFDS directory, which needs no TensorFlow.

    With an annotation file, examples and ground truth are exactly those of a `CocoSource` with that file, in its
    order; the records give the pixels. Without one they come from the records, in the records' order: boxes as
    float32 shares of the image's sides, areas cut to whole numbers.

    Arguments are those of `CocoSource`, with a TFDS directory as `root` (see `find_dataset`) and the split as TFDS or
    COCO calls it.

    Attributes:
      those of `DataSet`, and
      annotation_file: where the annotations are, None if in the records.

    Raises:
      InputError: the data set is of another kind, incomplete or damaged, or an annotation is wrong.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        num_classes: int = 0,
        max_images: int = 0,
        categories: str = "raw",
        category_ids: Sequence[int] | None = None,
        annotations: str | Path = "",
        complain: Complain = stop,
    ):
        directory = find_dataset(root)
        if directory is None:
            raise InputError(f"{root} holds no TFDS data set; set --config.data.root.")
        self.records = Records(directory, split)
        self.image_folder, self.split = directory, self.records.split
        self.annotation_file = Path(annotations) if annotations else None
        self.origin = str(self.annotation_file or self.records)
        content = read_annotations(self.annotation_file, complain) if self.annotation_file else None
        self._index: Index | None = index_of(self.records)  # which may take minutes the first time
        self._numbers = self._numbered(self._index, complain)
        self.notes: tuple[str, ...] = ()  # filled on the way
        if content:
            self._compare(content["images"], max_images, complain)
        else:
            content = self.listed()
            self.notes += (ABOUT_RECORDS.format(self.records), *category_ids_of(self.records)[1])
            self._check(self._index, content, complain)
        labels = Labels.of(content["categories"], self.origin, num_classes, categories, category_ids)
        self.num_classes, self.category_ids, self.label_names = labels.num_classes, labels.category_ids, labels.names
        self.examples, self.dropped = read_examples(
            content, Path(self.origin), labels, self._file, max_images, complain
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_index": None}  # which workers have no use for

    def _numbered(self, index: Index, complain: Complain) -> dict[int, int]:
        """The record of every image id."""
        numbers: dict[int, int] = {}
        for number, image_id in enumerate(index.image_ids.tolist()):
            if image_id in numbers:
                complain(f"image id {image_id} is in two records of {self.records}; prepare the data set anew.")
            else:
                numbers[image_id] = number
        return numbers

    def _compare(self, images: list[dict[str, Any]], max_images: int, complain: Complain) -> None:
        """Says how an annotation file's images are not those of the records."""
        absent = [image["id"] for image in images[: max_images or None] if image["id"] not in self._numbers]
        if absent:
            complain(
                f"{len(absent)} of {len(images)} images that {self.origin} lists are not in {self.records}, "
                f"such as image id {absent[0]}; give the annotation file that the data set was prepared from."
            )
        more = len(self._numbers.keys() - {image["id"] for image in images})
        if more:
            whole = f"{len(self._numbers)} images in {self.records}"
            self.notes += (f"{more} of the {whole} are not in {self.origin} and are left out",)

    def _check(self, index: Index, content: dict[str, list], complain: Complain) -> None:
        """Complains of records that make no sense, and takes their objects out of the content."""
        for place in np.flatnonzero((index.sizes == 0).any(1)).tolist():
            complain(
                f"the image of image id {index.image_ids[place]} in {self.records} cannot be read, which leaves its "
                "size unknown; prepare the data set anew without it, or set data.train_annotations and "
                "data.val_annotations, which say the size (then data.on_bad_image=skip leaves it out)."
            )
            self._numbers.pop(int(index.image_ids[place]), None)
        low, high = index.boxes[:, :2], index.boxes[:, 2:]
        good = np.all([low >= 0, high <= 1, low <= high], axis=(0, 2))  # False for NaN too
        known = (index.labels >= 0) & (index.labels < len(self.records.names))
        for place in np.flatnonzero(~(good & known)).tolist():
            annotation = content["annotations"][place]
            where = f"annotation id {annotation['id']} of image id {annotation['image_id']} in {self.records} has"
            if good[place]:
                complain(f"{where} the label {index.labels[place]}, outside 0..{len(self.records.names) - 1}.")
            else:
                box = ", ".join(f"{v:g}" for v in index.boxes[place])
                complain(f"{where} the box [{box}]; it must be ymin, xmin, ymax, xmax within 0..1.")
        content["annotations"] = [a for a, keep in zip(content["annotations"], good & known) if keep]

    def _file(self, image: dict[str, Any]) -> str | None:
        return self.place(image["file_name"]) if image["id"] in self._numbers else None

    def place(self, file_name: str) -> str:
        return f"{file_name} of {self.records}"

    def read(self, example: Example) -> Image.Image:
        try:
            data = self.records.image(self._numbers[example.image_id])
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                rgb = to_rgb(image)
        except UnreadableImage as error:
            raise UnreadableImage(f"the image {example.file} cannot be used: {error}") from error
        except (*DAMAGED, Image.DecompressionBombError) as error:
            unknown = isinstance(error, UnidentifiedImageError)  # which would tell an address in memory
            what = "it is none that Pillow knows" if unknown else str(error) or type(error).__name__
            raise UnreadableImage(f"the image {example.file} cannot be read ({what}).") from error
        return check_size(rgb, example)

    def listed(self) -> dict[str, list]:
        if self.annotation_file:
            return read_annotations(self.annotation_file, lambda _: None)
        if self._index is None:
            self._index = index_of(self.records)
        ids = category_ids_of(self.records)[0]
        return {
            "images": list(_images(self._index)),
            "annotations": list(_annotations(self._index, ids)),
            "categories": [{"id": i, "name": name} for i, name in zip(ids, self.records.names)],
        }

    def ground_truth(self) -> dict[str, Any]:
        """What evaluation compares with, crowds included: the annotation file's content, or that of the records."""
        if self.annotation_file:
            return json.loads(self.annotation_file.read_text(encoding="utf-8"))
        return self.listed()


def category_ids_of(records: Records) -> tuple[list[int], list[str]]:
    """The category id of every label, and a note if it had to be made up.

    Our builder writes down the ids; TFDS's own does not, but its names are COCO's.
    """
    if records.category_ids is not None:
        return records.category_ids, []
    official = {name: category for category, name in COCO_NAMES.items()}
    if all(name in official for name in records.names):
        return [official[name] for name in records.names], []
    note = (
        f"{records.directory} says no category ids and its names are not COCO's: the labels "
        f"0..{len(records.names) - 1} are taken for them"
    )
    return list(range(len(records.names))), [note]


def _images(index: Index) -> Iterator[dict[str, Any]]:
    columns = index.image_ids.tolist(), index.file_names.tolist(), index.sizes.tolist()
    for image_id, name, (width, height) in zip(*columns):
        yield {"id": image_id, "file_name": name, "width": width, "height": height}


def _annotations(index: Index, category_ids: list[int]) -> Iterator[dict[str, Any]]:
    """Boxes in pixels, computed in float64; category -1 for labels that do not exist."""
    sides = np.repeat(index.sizes, index.counts, axis=0)
    top_left, bottom_right = index.boxes[:, 1::-1] * sides, index.boxes[:, :1:-1] * sides
    known = (index.labels >= 0) & (index.labels < len(category_ids))
    category = np.where(known, np.array(category_ids)[np.where(known, index.labels, 0)], -1)
    columns = (
        index.ids,
        np.repeat(index.image_ids, index.counts),
        category,
        np.concatenate([top_left, bottom_right - top_left], axis=1),
        index.areas,
        index.crowds.astype(int),
    )
    for annotation_id, image_id, category_id, box, area, crowd in zip(*(c.tolist() for c in columns)):
        yield {
            "id": annotation_id,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": box,
            "area": area,
            "iscrowd": crowd,
        }
