"""The Ultralytics YOLO layout: `data.yaml`, `images/` and `labels/`, with one text file per image."""

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from yolos_jax.datasets.annotations import Annotations, Complain, OpenAnnotations
from yolos_jax.datasets.layouts import data_yaml, yolo_labels
from yolos_jax.datasets.listing import BESIDE, LeftOut, folders_in, images_below, subfolder
from yolos_jax.datasets.splits import FAMILIES, family_of
from yolos_jax.errors import InputError
from yolos_jax.user_files import read_text

NAME = "Ultralytics YOLO"


def splits(root: Path) -> dict[str, OpenAnnotations]:
    """Maps split names to functions that open the splits; empty if `root` is in a different layout.

    `root` is a `data.yaml`, a folder with one, or a folder with `images/`, `labels/` and a list of class names.
    """
    file = root if root.suffix.lower() in data_yaml.ENDINGS and root.is_file() else data_yaml.find(root)
    if file is None:
        return _without_yaml(root)
    about = data_yaml.read(file)
    if about is None:
        return {}
    base, names = _base(file, about), _names(file, about)
    keys = [key for family in FAMILIES.values() for key in family if about.get(key)]
    first_five = bool(about.get("kpt_shape"))  # keypoints follow the box
    return {key: partial(read, file, base, about[key], names, first_five) for key in keys}


def read(
    file: Path, base: Path, places: Any, names: dict[int, str], first_five: bool, complain: Complain
) -> Annotations:
    """Reads a split given as folders or lists of images; raises `InputError` if one of them does not exist."""
    left = LeftOut()
    folders = [_place(base, str(place)) for place in (places if isinstance(places, list) else [places])]
    for place in folders:
        if not place.exists():
            raise InputError(f"{place}, listed in {file}, does not exist.")
    folder = folders[0] if len(folders) == 1 and folders[0].is_dir() else base
    paths = [path for place in folders for path in _images(place, base, left)]
    origin = ", ".join(map(str, folders))
    content, notes = yolo_labels.read(paths, folder, names, first_five, origin, complain)
    if all(place.is_dir() for place in folders):  # with a list, the label folder may also contain files of other splits
        notes += yolo_labels.unused_note(paths)
    notes = [*left.note(folder), *notes]
    return Annotations(NAME, str(file), folder, content, notes, boxes="xywh_shares", upright=True, has_sizes=False)


def _base(file: Path, about: dict[str, Any]) -> Path:
    """Returns the base folder of the paths in a YAML file.

    This is its `path`, relative to the file or to the working directory, if it exists, or else the folder of the file.
    """
    said = os.path.expanduser(str(about.get("path") or "."))
    folders = [place for place in (file.parent / said, Path(said)) if place.is_dir()]
    return folders[0] if folders else file.parent


def _names(file: Path, about: dict[str, Any]) -> dict[int, str]:
    names = about.get("names", about.get("nc"))
    if isinstance(names, dict) and all(type(key) is int and key >= 0 for key in names):
        return {key: str(name) for key, name in names.items()}
    if isinstance(names, list):
        return {key: str(name) for key, name in enumerate(names)}
    if type(names) is int and 0 < names < 100_000:
        return {key: f"class {key}" for key in range(names)}
    raise InputError(f"names in {file} must be a list of names, or a mapping from integers to names.")


def _place(base: Path, said: str) -> Path:
    """Resolves a path in a YAML file; Roboflow writes `../train/images` although `train/` is next to the file."""
    place = base / os.path.expanduser(said)
    inside = base / re.sub(r"^(\.\./)+", "", said)
    return place if place.exists() or not inside.exists() else inside


def _images(place: Path, base: Path, left: LeftOut) -> Iterator[str]:
    """Yields the paths of the images in a folder, or of those listed in a text file."""
    if place.is_dir():
        yield from (os.path.join(place, name) for name in images_below(place, left, BESIDE))
        return
    named = (line.strip() for line in read_text(place, "the list of images").splitlines())
    for name in filter(None, named):
        beside = os.path.join(place.parent, name)
        yield os.path.normpath(beside if os.path.exists(beside) else os.path.join(base, name))


def _without_yaml(root: Path) -> dict[str, OpenAnnotations]:
    """Finds splits in images/ and labels/ with class names in a text file, as written by labelImg and Label Studio."""
    images, labels = subfolder(root, "images"), subfolder(root, "labels")
    lists = [
        folder / name
        for folder in (root, labels)
        if folder
        for name in yolo_labels.LISTS
        if os.path.lexists(folder / name)
    ]
    if not (images and labels and lists):
        return {}
    lines = read_text(lists[0], "the list of classes").splitlines()
    names = {key: name.strip() for key, name in enumerate(lines) if name.strip()}
    inside = [folder for folder in folders_in(images) if family_of(folder.name)]
    places = {folder.name: folder for folder in inside} or {"all": images}
    return {split: partial(read, lists[0], root, str(place), names, False) for split, place in places.items()}
