"""Reads a prepared TFDS data set with the features of `coco/2017`, optionally with boxes from an annotation file."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from yolos_jax.datasets.annotations import Annotations, Complain, Content, OpenAnnotations, read_annotations
from yolos_jax.datasets.headers import Header
from yolos_jax.datasets.layouts import hf_datasets
from yolos_jax.datasets.tfds.index import Index, index_of
from yolos_jax.datasets.tfds.records import Records, category_ids_of, find_dataset, splits_of

NAME = "TFDS"
ABOUT_AREAS = (
    "boxes are read from the records of {}, which store integer areas: APs, APm, APl and ARs, ARm, ARl may differ "
    "slightly from results with the COCO annotation file; set data.train_annotations and data.val_annotations to "
    "use that file"
)


class RecordImages:
    """Maps image ids to the images in the records; each process reopens the records."""

    def __init__(self, records: Records, numbers: dict[int, int]):
        self._records, self._numbers = records, numbers

    def __contains__(self, image_id: int) -> bool:
        return image_id in self._numbers

    def __getitem__(self, image_id: int) -> bytes:
        return self._records.image(self._numbers[image_id])

    def __str__(self) -> str:
        return str(self._records)


def splits(root: Path) -> dict[str, OpenAnnotations]:
    """Maps split names to functions that open the splits of a folder; empty if it is in a different layout."""
    directory = directory_of(root)
    return {split: partial(read, directory, split, None) for split in splits_of(directory)} if directory else {}


def directory_of(root: Path) -> Path | None:
    """Returns the folder of the TFDS data set in `root`, or None if there is none."""
    # Folders saved by the package `datasets` look similar to TFDS folders.
    return None if hf_datasets.splits(root) else find_dataset(root)


def read(directory: Path, split: str, file: Path | None, complain: Complain) -> Annotations:
    """Reads a split, with boxes and image order from the COCO annotation `file` if given, or else from the records.

    Raises `InputError` if the data set has different features, is incomplete or is damaged.
    """
    records = Records(directory, split)
    index = index_of(records)  # may take minutes the first time
    numbers: dict[int, int] = {}  # maps image ids to record numbers
    for number, image_id in enumerate(index.image_ids.tolist()):
        if numbers.setdefault(image_id, number) != number:
            complain(f"image id {image_id} is in two records of {records}; prepare the data set again.")
    if file:
        content, boxes = read_annotations(file, complain, sizes=False), ""
        more = len(numbers.keys() - {image["id"] for image in content["images"]})
        left = f"{more} of the {len(numbers)} images in {records}"
        notes = [f"{left} are not in {file} and are skipped"] if more else []
    else:
        ids, notes = category_ids_of(records)
        content, boxes = _content(index, records, ids, complain), "xyxy_shares"
        notes = [ABOUT_AREAS.format(records), *notes]
    table = zip(index.image_ids.tolist(), index.sizes.tolist(), index.turns.tolist())
    headers = {image_id: Header((width, height), turn) for image_id, (width, height), turn in table if width}
    return Annotations(
        NAME, str(file or records), directory, content, notes, boxes=boxes, has_sizes=bool(file), reopens=True,
        packed=RecordImages(records, numbers), headers=headers,
    )  # fmt: skip


def _content(index: Index, records: Records, category_ids: list[int], complain: Complain) -> Content:
    """Converts the records to COCO format, except that boxes are [x1, y1, x2, y2] relative to the image size."""
    for image_id in index.image_ids[(index.sizes == 0).any(1)].tolist():
        complain(
            f"image id {image_id} in {records} cannot be read, so its size is unknown; prepare the data set again "
            "without it, or set data.train_annotations and data.val_annotations to files that contain its size, "
            "and set data.on_bad_image=skip."
        )
    annotations = _rows(
        id=index.ids, image_id=np.repeat(index.image_ids, index.counts), category_id=index.labels,
        bbox=index.boxes[:, [1, 0, 3, 2]].astype(np.float64), area=index.areas, iscrowd=index.crowds.astype(int),
    )  # fmt: skip
    low, high = index.boxes[:, :2], index.boxes[:, 2:]
    inside = np.all([low >= 0, high <= 1, low <= high], axis=(0, 2)).tolist()  # also False for NaN
    kept = []
    for annotation, is_inside, box in zip(annotations, inside, index.boxes):
        label = annotation["category_id"]
        where = f"annotation id {annotation['id']} of image id {annotation['image_id']} in {records} has"
        if not is_inside:
            numbers = ", ".join(f"{v:g}" for v in box)
            complain(f"{where} the box [{numbers}]; it must be ymin, xmin, ymax, xmax between 0 and 1.")
        elif not 0 <= label < len(category_ids):
            complain(f"{where} the label {label}, outside 0..{len(category_ids) - 1}.")
        else:
            kept.append(annotation | {"category_id": category_ids[label]})
    return {
        "images": _rows(id=index.image_ids, file_name=index.file_names),
        "annotations": kept,
        "categories": [{"id": i, "name": name} for i, name in zip(category_ids, records.names)],
    }


def _rows(**columns: np.ndarray) -> list[dict[str, Any]]:
    """Converts the columns of a table to rows, as dictionaries of Python values."""
    return [dict(zip(columns, row)) for row in zip(*(column.tolist() for column in columns.values()))]
