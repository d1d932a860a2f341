"""Hugging Face's imagefolder: `metadata.jsonl` beside the images of a split, with `objects` of boxes and categories."""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from yolos_jax.datasets.annotations import Annotations, Complain, OpenAnnotations
from yolos_jax.datasets.layouts.objects import WrongObjects, checked, content_of, names_of
from yolos_jax.datasets.listing import BESIDE, LeftOut, images_below, is_hidden
from yolos_jax.errors import InputError, counted, shown
from yolos_jax.user_files import read_text

NAME = "imagefolder"
FILE = "metadata.jsonl"
MOST_BYTES = 2**32


def splits(root: Path) -> dict[str, OpenAnnotations]:
    """Functions that open the splits of a folder, by name; empty if the folder is in another layout."""
    places = (root, root / "data", *sorted(root.glob("*/")), *sorted(root.glob("data/*/")))
    places = tuple(place for place in dict.fromkeys(places) if not is_hidden(place.name))
    files = [place / FILE for place in places if os.path.lexists(place / FILE)]
    objects = {file: _has_objects(file) for file in files}
    # An empty file counts as a split if others match; it is reported when it is read.
    files = [file for file in files if objects[file] or (objects[file] is None and any(objects.values()))]
    return {
        ("train" if file.parent in (root, root / "data") else file.parent.name): partial(read, file, files)
        for file in files
    }


def read(file: Path, files: list[Path], complain: Complain) -> Annotations:
    """Reads a split; category names are sorted over all `files` and numbered 0, 1, ..."""
    numbers = names_of(objects for each in files for _, objects in _lines(each))
    notes = []
    if any(isinstance(name, int) for name in numbers):
        notes.append(f"{file} has category numbers but no names; the numbers are used as names")
    rows = [({"file_name": name}, objects) for name, objects in _lines(file)]
    notes += _unlisted(file, files, [image["file_name"] for image, _ in rows])
    content = content_of(rows, numbers, str(file), complain)
    return Annotations(NAME, str(file), file.parent, content, notes, by_spelling=True, upright=True, has_sizes=False)


def _lines(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """File names and objects of every line; `InputError` if a line lacks them or they have another type."""
    found = []
    for number, line in _filled(file):
        try:
            entry = json.loads(line)
            found.append((os.path.normpath(entry["file_name"]), checked(entry["objects"])))
        except WrongObjects as error:
            raise InputError(f"line {number} of {file} {error}.") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            wanted = "it must be JSON with file_name and objects"
            raise InputError(f"line {number} of {file} is {shown(line.strip())}; {wanted}.") from error
    return found


def _unlisted(file: Path, files: list[Path], names: list[str]) -> list[str]:
    """Notes about files beside the listed images; folders with other metadata are skipped."""
    left = LeftOut()
    listed = {os.path.basename(name).lower() for name in names}
    elsewhere = tuple(f"{os.path.relpath(f.parent, file.parent)}{os.sep}" for f in files if f != file)
    found = [name for name in images_below(file.parent, left, BESIDE) if not name.startswith(elsewhere)]
    others = [name for name in found if os.path.basename(name).lower() not in listed]
    notes = left.note(file.parent)
    if others:
        notes.append(f"{counted(len(others), 'image')} beside {file} and not in it left out, such as {others[0]}")
    return notes


def _has_objects(file: Path) -> bool | None:
    """Whether a line has `objects` or is not JSON; None if the file is empty.

    False for other metadata, such as for classification. `InputError` if the file cannot be read.
    """
    lines = _filled(file)
    for _, line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            return True  # the wrong line is reported when it is read
        if isinstance(entry, dict) and "objects" in entry:
            return True
    return False if lines else None


def _filled(file: Path) -> list[tuple[int, str]]:
    """The non-empty lines with their numbers from 1."""
    lines = enumerate(read_text(file, "the file", MOST_BYTES).split("\n"), 1)
    return [(number, line) for number, line in lines if line.strip()]
