"""The CrowdHuman layout: `annotation_SPLIT.odgt`, with one JSON object per line, and `Images/`.

Each line describes one image: `ID` is its name without `.jpg`, and `gtboxes` lists its boxes. The full-body boxes
(`fbox`: x, y, width, height in pixels, which may extend beyond the image) are used, because the CrowdHuman metrics are
based on them.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from yolos_jax.datasets.annotations import Annotations, Complain, OpenAnnotations
from yolos_jax.datasets.box_checks import is_number
from yolos_jax.datasets.layouts.coco_folder import image_folder
from yolos_jax.datasets.layouts.gathering import Gathered, lines_of
from yolos_jax.datasets.listing import subfolder
from yolos_jax.errors import shown

NAME = "CrowdHuman"
BEGINNING = "annotation_"


def splits(root: Path) -> dict[str, OpenAnnotations]:
    """Maps split names to functions that open the splits of a folder; empty if it is in a different layout."""
    places = [place for place in (root, subfolder(root, "annotations")) if place and place.is_dir()]
    files = [file for place in places for file in sorted(place.glob(f"{BEGINNING}*.odgt"))]
    return {name: partial(read, file, image_folder(root, name)) for name, file in ((_split(f), f) for f in files)}


def read(file: Path, images: Path, complain: Complain) -> Annotations:
    """Reads a split; masks and ignored boxes become crowds."""
    found = Gathered({"person": 1})
    ignored = 0
    for number, line in lines_of(file):
        try:
            entry = json.loads(line)
            name, people = f"{entry['ID']}.jpg", [_person(one) for one in entry["gtboxes"]]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            wanted = "it must be JSON with ID and a list gtboxes whose entries have tag and fbox"
            complain(f"line {number} of {file} is {shown(line)}; {wanted}.")
            continue
        found.image(name)
        for box, ignore in people:
            found.box("person", box, ignore)
            ignored += ignore
    notes = [f"the boxes in {file} are full-body boxes (fbox), which may extend beyond the image"]
    if ignored:
        notes.append(
            f"{ignored} masks or ignored boxes in {file} are crowds: not used for training, ignored in scoring"
        )
    return Annotations(NAME, str(file), images, found.content, notes, by_spelling=True, boxes="xywh", has_sizes=False)


def _person(one: dict[str, Any]) -> tuple[list[float], bool]:
    """Returns (the full-body box, whether it is ignored); an invalid entry raises `ValueError` or another exception."""
    box = one["fbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)) or min(box[2:]) < 0:
        raise ValueError("no box")
    return box, one["tag"] != "person" or one.get("extra", {}).get("ignore") == 1


def _split(file: Path) -> str:
    return file.stem.removeprefix(BEGINNING)
