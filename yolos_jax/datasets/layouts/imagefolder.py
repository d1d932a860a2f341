"""The imagefolder layout of Hugging Face: `metadata.jsonl` with boxes and categories, next to the images of a split."""

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
    """Maps split names to functions that open the splits of a folder; empty if it is in a different layout."""
    places = (root, root / "data", *sorted(root.glob("*/")), *sorted(root.glob("data/*/")))
    places = tuple(place for place in dict.fromkeys(places) if not is_hidden(place.name))
    files = [place / FILE for place in places if os.path.lexists(place / FILE)]
    objects = {file: _has_objects(file) for file in files}
    # An empty file counts as a split if another file has objects; it is reported when it is read.
    files = [file for file in files if objects[file] or (objects[file] is None and any(objects.values()))]
    return {
        ("train" if file.parent in (root, root / "data") else file.parent.name): partial(read, file, files)
        for file in files
    }


def read(file: Path, files: list[Path], complain: Complain) -> Annotations:
    """Reads a split. Category ids are 0, 1, ... in alphabetical order of the names in all `files`."""
    numbers = names_of(objects for each in files for _, objects in _lines(each))
    notes = []
    if any(isinstance(name, int) for name in numbers):
        notes.append(f"{file} has category numbers but no names, so the numbers are used as names")
    rows = [({"file_name": name}, objects) for name, objects in _lines(file)]
    notes += _unlisted(file, files, [image["file_name"] for image, _ in rows])
    content = content_of(rows, numbers, str(file), complain)
    return Annotations(NAME, str(file), file.parent, content, notes, by_spelling=True, upright=True, has_sizes=False)


def _lines(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Reads the file name and objects of each line; raises `InputError` if a line is invalid."""
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
    """Returns notes about unlisted images and other files; skips folders with their own metadata file."""
    left = LeftOut()
    listed = {os.path.basename(name).lower() for name in names}
    elsewhere = tuple(f"{os.path.relpath(f.parent, file.parent)}{os.sep}" for f in files if f != file)
    found = [name for name in images_below(file.parent, left, BESIDE) if not name.startswith(elsewhere)]
    others = [name for name in found if os.path.basename(name).lower() not in listed]
    notes = left.note(file.parent)
    if others:
        notes.append(f"skipped {counted(len(others), 'image')} not listed in {file} (for example {others[0]})")
    return notes


def _has_objects(file: Path) -> bool | None:
    """Whether a line contains `objects` or is invalid JSON; None if the file is empty.

    Returns False for other metadata, for example for classification. Raises `InputError` if the file cannot be read.
    """
    lines = _filled(file)
    for _, line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            return True  # the invalid line is reported when it is read
        if isinstance(entry, dict) and "objects" in entry:
            return True
    return False if lines else None


def _filled(file: Path) -> list[tuple[int, str]]:
    """Returns (line number from 1, line) for all non-empty lines."""
    lines = enumerate(read_text(file, "the file", MOST_BYTES).split("\n"), 1)
    return [(number, line) for number, line in lines if line.strip()]
