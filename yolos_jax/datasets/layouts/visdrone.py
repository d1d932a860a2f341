"""The VisDrone-DET layout: `VisDrone2019-DET-SPLIT/` with `images/` and one text file per image in `annotations/`.

A line is `left,top,width,height,score,category,truncation,occlusion`, in pixels starting at 0. Boxes with a score of 0
and detections in regions of category 0 are ignored in evaluation. Category 11, "others", is not evaluated.
"""

import re
from collections import Counter
from functools import partial
from pathlib import Path

from yolos_jax.datasets.annotations import Annotations, Complain, OpenAnnotations
from yolos_jax.datasets.layouts.gathering import (
    Gathered,
    first_lines,
    images_by_stem,
    lines_of,
    numbers_in,
    text_files,
    unlabelled_note,
)
from yolos_jax.datasets.listing import LeftOut, folders_in, subfolder
from yolos_jax.errors import shown

NAME = "VisDrone"
NAMES = (
    "pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle", "awning-tricycle", "bus", "motor",
)  # fmt: skip
REGION, OTHERS = 0, 11
FOLDER = re.compile(r"VisDrone\d*-DET-(.+)", re.IGNORECASE)


def splits(root: Path) -> dict[str, OpenAnnotations]:
    """Maps split names to functions that open the splits of a folder; empty if it is in a different layout."""
    found = [f for f in (root, *folders_in(root)) if subfolder(f, "images") and subfolder(f, "annotations")]
    if not any(map(_holds_objects, found)):
        return {}
    return {_name(folder): partial(read, folder) for folder in found}


def read(folder: Path, complain: Complain) -> Annotations:
    """Reads a split with the ten evaluated categories and their VisDrone ids, 1..10."""
    images, labels = subfolder(folder, "images") or folder, subfolder(folder, "annotations") or folder
    left = LeftOut()
    names = images_by_stem(images, left)
    found, counts = Gathered({name: number for number, name in enumerate(NAMES, 1)}), Counter[str]()
    for file in text_files(labels):
        found.image(names.pop(file.stem, f"{file.stem}.jpg"))
        for number, line in lines_of(file):
            values = _values(line)
            if values is None:
                wanted = "it must be left,top,width,height,score,category,truncation,occlusion"
                complain(f"line {number} of {file} is {shown(line)}; {wanted}.")
                continue
            box, score, category = values[:4], values[4], int(values[5])
            if category == OTHERS:
                counts["others"] += 1
            elif category == REGION:
                counts["region"] += 1
                for name in NAMES:
                    found.box(name, box, ignored=True)
            else:
                found.box(NAMES[category - 1], box, ignored=score == 0)
    notes = left.note(images)
    if counts["region"]:
        notes.append(
            f"{counts['region']} ignored regions in {labels} are added as crowds to each of the {len(NAMES)} categories"
        )
    if counts["others"]:
        notes.append(f'{counts["others"]} "others" objects in {labels} are skipped; VisDrone does not score them')
    notes += unlabelled_note(names, images)
    return Annotations(NAME, str(labels), images, found.content, notes, by_spelling=True, boxes="xywh", has_sizes=False)


def _values(line: str) -> list[float] | None:
    """Returns the eight numbers of a line, or None if it is invalid."""
    values = numbers_in(line.rstrip(",").split(","))
    if values is None or len(values) != 8 or values[5] not in range(OTHERS + 1) or min(values[2:4]) < 0:
        return None
    return values


def _holds_objects(folder: Path) -> bool:
    labels = subfolder(folder, "annotations") or folder
    first = next(first_lines(text_files(labels)), None)
    return first is not None and _values(first) is not None


def _name(folder: Path) -> str:
    match = FOLDER.fullmatch(folder.name)
    return match[1] if match else folder.name
