"""A prepared TFDS data set with the records of `coco/2017`: the same examples as from the COCO folder."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from yolos_jax.data.examples import Example
from yolos_jax.datasets.annotations import Complain, read_annotations, stop
from yolos_jax.datasets.coco import check_size, orphan_note, read_examples
from yolos_jax.datasets.coco_names import COCO_NAMES
from yolos_jax.datasets.labels import labels_of
from yolos_jax.datasets.rules import DEFAULT, Rules, in_pixels
from yolos_jax.datasets.tfds.index import Index, index_of
from yolos_jax.datasets.tfds.records import Records, find_dataset
from yolos_jax.datasets.upright import SILENT, STORED
from yolos_jax.errors import InputError
from yolos_jax.images.headers import SWAPS, Header
from yolos_jax.images.reading import decode, decoding

ABOUT_RECORDS = (
    "boxes come from the records of {}, where areas are whole numbers: APs, APm, APl and ARs, ARm, ARl may differ a "
    "little from those by COCO's annotation file; set data.train_annotations and data.val_annotations to use one"
)


class TfdsSource:
    """Examples of one split of a TFDS directory, which needs no TensorFlow.

    With an annotation file, examples and ground truth are exactly those of a `CocoSource` with that file, in its
    order; the records give the pixels. Without one they come from the records, in the records' order: boxes as
    float32 shares of the image's sides, areas cut to whole numbers.

    Arguments and attributes are those of `CocoSource`, with a TFDS directory as `root` (see `find_dataset`) and the
    split as TFDS or COCO calls it; `annotation_file` is None if the annotations are in the records.
    `InputError` if the data set is of another kind, incomplete or damaged, or if an annotation is wrong.
    """

    layout = "TFDS"

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
        rules: Rules = DEFAULT,
    ):
        self.rules = rules
        directory = find_dataset(root)
        if directory is None:
            raise InputError(f"{root} holds no TFDS data set; set --config.data.root.")
        self.records = Records(directory, split)
        self.image_folder, self.split = directory, self.records.split
        self.annotation_file = Path(annotations) if annotations else None
        self.origin = str(self.annotation_file or self.records)
        content = read_annotations(self.annotation_file, complain) if self.annotation_file else None
        self._index: Index | None = index_of(self.records)  # which may take minutes the first time
        self._numbers: dict[int, int] = {}  # the record of every image id
        for number, image_id in enumerate(self._index.image_ids.tolist()):
            if self._numbers.setdefault(image_id, number) != number:
                complain(f"image id {image_id} is in two records of {self.records}; prepare the data set anew.")
        self.notes: tuple[str, ...] = ()
        if content:
            in_pixels(content, rules.boxes)
            self._compare(content["images"], max_images, complain)
            self.notes += tuple(orphan_note(content, self.origin))
        else:
            content = self.listed()
            self.notes += (ABOUT_RECORDS.format(self.records), *category_ids_of(self.records)[1])
            self._check(self._index, content, complain)
        asked = num_classes, categories, category_ids
        labels, notes = labels_of(content["categories"], self.origin, asked, rules, complain)
        self.num_classes, self.category_ids, self.label_names = labels.num_classes, labels.category_ids, labels.names
        place = Path(self.origin), labels, self._file, max_images, complain, rules, self._headers
        found = read_examples(content, *place)
        self.examples, self.dropped, self.clipped, self.turning, more = found
        self.notes += notes + more

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_index": None}  # which workers have no use for

    def _compare(self, images: list[dict[str, Any]], max_images: int, complain: Complain) -> None:
        """Says how an annotation file's images are not those of the records."""
        absent = [image["id"] for image in images[: max_images or None] if image["id"] not in self._numbers]
        if absent:
            listed = f"{len(absent)} of {len(images)} images that {self.origin} lists"
            such = f"are not in {self.records}, such as image id {absent[0]}"
            complain(f"{listed} {such}; give the annotation file that the data set was prepared from.")
        more = len(self._numbers.keys() - {image["id"] for image in images})
        if more:
            left = f"{more} of the {len(self._numbers)} images in {self.records}"
            self.notes += (f"{left} are not in {self.origin} and are left out",)

    def _check(self, index: Index, content: dict[str, list], complain: Complain) -> None:
        """Complains of records that make no sense, and takes their objects out of the content."""
        for image_id in index.image_ids[(index.sizes == 0).any(1)].tolist():
            complain(
                f"the image of image id {image_id} in {self.records} cannot be read, which leaves its size unknown; "
                "prepare the data set anew without it, or set data.train_annotations and data.val_annotations, "
                "which say the size (then data.on_bad_image=skip leaves it out)."
            )
            self._numbers.pop(image_id, None)
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

    def _headers(self, images: Sequence[dict], _: Sequence[str]) -> list[Header]:
        index = self._index or index_of(self.records)
        numbers = [self._numbers[image["id"]] for image in images]
        sizes = index.sizes[numbers].tolist()
        return [Header(turn, tuple(size)) for turn, size in zip(index.turns[numbers].tolist(), sizes)]

    def place(self, file_name: str) -> str:
        return f"{file_name} of {self.records}"

    def packed(self, example: Example) -> bytes:
        """The image as the file that its record holds."""
        return self.records.image(self._numbers[example.image_id])

    def read(self, example: Example) -> Image.Image:
        with decoding(f"the image {example.file}"):
            rgb = decode(io.BytesIO(self.packed(example)), self.turning.upright, self.rules.sixteen_bit == "stretch")
        return check_size(rgb, example)

    def listed(self) -> dict[str, list]:
        if self.annotation_file:
            return read_annotations(self.annotation_file, lambda _: None)
        index, ids = self._index or index_of(self.records), category_ids_of(self.records)[0]
        sizes = _sizes(index, self.rules)
        return {
            "images": _images(index, sizes),
            "annotations": _annotations(index, sizes, ids),
            "categories": [{"id": i, "name": name} for i, name in zip(ids, self.records.names)],
        }

    def ground_truth(self) -> dict[str, Any]:
        if not self.annotation_file:
            return self.listed()
        content = json.loads(self.annotation_file.read_text("utf-8"))
        in_pixels(content, self.rules.boxes)
        return content


def category_ids_of(records: Records) -> tuple[list[int], tuple[str, ...]]:
    """The category id of every label, and a note if it had to be made up.

    Our builder writes down the ids; TFDS's own does not, but its names are COCO's.
    """
    official = {name: category for category, name in COCO_NAMES.items()}
    if records.category_ids is not None:
        return records.category_ids, ()
    if all(name in official for name in records.names):
        return [official[name] for name in records.names], ()
    labels = list(range(len(records.names)))
    note = f"says no category ids and its names are not COCO's: the labels 0..{labels[-1]} are taken for them"
    return labels, (f"{records.directory} {note}",)


def _rows(**columns: np.ndarray) -> list[dict[str, Any]]:
    """A dictionary for every row of a table, in plain Python types."""
    return [dict(zip(columns, row)) for row in zip(*(column.tolist() for column in columns.values()))]


def _sizes(index: Index, rules: Rules) -> np.ndarray:
    """(width, height) of the images as they are read: shares of their sides do not tell which way they are meant."""
    upright = rules.upright == "yes" or (rules.upright == "auto" and rules.known.undecided != STORED)
    swapped = np.isin(index.turns, SWAPS)[:, None] & upright
    return np.where(swapped, index.sizes[:, ::-1], index.sizes)


def _images(index: Index, sizes: np.ndarray) -> list[dict[str, Any]]:
    width, height = sizes.T
    silent = np.ones(len(sizes), bool)
    return _rows(id=index.image_ids, file_name=index.file_names, width=width, height=height, **{SILENT: silent})


def _annotations(index: Index, sizes: np.ndarray, category_ids: list[int]) -> list[dict[str, Any]]:
    """Boxes in pixels, computed in float64; category -1 for labels that do not exist."""
    sides = np.repeat(sizes, index.counts, axis=0)
    top_left, bottom_right = index.boxes[:, 1::-1] * sides, index.boxes[:, :1:-1] * sides
    known = (index.labels >= 0) & (index.labels < len(category_ids))
    return _rows(
        id=index.ids,
        image_id=np.repeat(index.image_ids, index.counts),
        category_id=np.where(known, np.array(category_ids)[np.where(known, index.labels, 0)], -1),
        bbox=np.concatenate([top_left, bottom_right - top_left], axis=1),
        area=index.areas,
        iscrowd=index.crowds.astype(int),
    )
