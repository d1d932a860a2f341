"""The DOTA layout: `SPLIT/images/` and `SPLIT/labelTxt/`, with one quadrilateral per line.

Quadrilaterals are converted to their axis-aligned bounding boxes. A line is `x1 y1 x2 y2 x3 y3 x4 y4 category
difficult`, in pixels starting at 0; the first lines may contain the source and resolution of the image.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

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

NAME = "DOTA"
LABELS = "labelTxt"  # prefix of label folders; a version may follow, as in labelTxt-v1.5
HEAD = ("imagesource:", "gsd:", "acquisition")


class Quadrangle(NamedTuple):
    """An annotated object."""

    name: str
    box: tuple[float, float, float, float]  # x, y, width, height of the axis-aligned bounding box
    difficult: bool


def splits(root: Path) -> dict[str, OpenAnnotations]:
    """Maps split names to functions that open the splits of a folder; empty if it is in a different layout."""
    labels = {folder: _labels(folder) for folder in (root, *folders_in(root))}
    found = {folder: text for folder, text in labels.items() if text}
    if not any(map(_holds_objects, found.values())):
        return {}
    return {folder.name: partial(read, folder, text, tuple(found.values())) for folder, text in found.items()}


def read(folder: Path, labels: Path, everything: tuple[Path, ...], complain: Complain) -> Annotations:
    """Reads a split. Category ids are 0, 1, ... in alphabetical order of the names in the labels of all splits."""
    names = sorted({one.name for part in everything for file in text_files(part) for one in _objects(file, _pass_over)})
    images = subfolder(folder, "images") or folder
    left = LeftOut()
    files = images_by_stem(images, left)
    found = Gathered({name: number for number, name in enumerate(names)})
    difficult = 0
    for file in text_files(labels):
        found.image(files.pop(file.stem, f"{file.stem}.png"))
        for one in _objects(file, complain):
            found.box(one.name, one.box, one.difficult)
            difficult += one.difficult
    notes = [*left.note(images), f"quadrilaterals in {labels} are converted to axis-aligned bounding boxes"]
    if difficult:
        notes.append(f"{difficult} difficult objects in {labels} are crowds: not used for training, ignored in scoring")
    notes += unlabelled_note(files, images)
    return Annotations(NAME, str(labels), images, found.content, notes, by_spelling=True, boxes="xywh", has_sizes=False)


def _labels(folder: Path) -> Path | None:
    """Returns the newest label folder of a split; it may be nested inside a folder of the same name."""
    if subfolder(folder, "images") is None:
        return None
    for version in reversed(folders_in(folder, LABELS)):
        for place in (version, *folders_in(version)):
            if text_files(place):
                return place
    return None


def _holds_objects(labels: Path) -> bool:
    return any(map(_quadrangle, first_lines(text_files(labels))))


def _objects(file: Path, complain: Complain) -> list[Quadrangle]:
    """Reads the objects of a text file; reports invalid lines."""
    found = []
    for number, line in lines_of(file):
        if line.lower().startswith(HEAD):
            continue
        one = _quadrangle(line)
        if one is None:
            complain(f"line {number} of {file} is {shown(line)}; it must have four corners, a category and 0 or 1.")
        else:
            found.append(one)
    return found


def _quadrangle(line: str) -> Quadrangle | None:
    words = line.split()
    corners = numbers_in(words[:8])
    if corners is None or len(words) not in (9, 10) or (words[9:] and not words[9].isdigit()):
        return None
    xs, ys = corners[::2], corners[1::2]
    box = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    return Quadrangle(words[8], box, words[9:] not in ([], ["0"]))


def _pass_over(sentence: str) -> None:
    """Ignores an invalid line, which is reported when its split is read."""
