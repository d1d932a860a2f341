"""What every layout is turned into: a split of a data set as COCO writes it, in memory. No jax here."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yolos_jax.datasets.annotations import Complain
from yolos_jax.images.listing import is_hidden

FEW = 3  # names or numbers that stand for many in a sentence


@dataclasses.dataclass
class Annotated:
    """One split: the content of a COCO annotation file, and where the images lie."""

    layout: str  # such as "COCO"
    origin: str  # the file or folder that the annotations come from, for messages
    image_folder: Path
    # Lists of images, annotations and categories. An image's file_name is relative to `image_folder`; it has no
    # width and height where nothing on disk says them.
    content: dict[str, list[dict[str, Any]]]
    notes: list[str] = dataclasses.field(default_factory=list)
    by_spelling: bool = False  # names are as a person wrote them: look for near ones, and stay inside the folder
    upright: bool = False  # boxes belong to images that are turned upright, as the layout's own tools do
    says_sizes: bool = True  # whether the layout has a place for images' sizes
    again: bool = False  # reading it again is cheap, so that it need not stay in memory
    pixels: Callable[[str], bytes] | None = None  # the file of an image that lies in none, by its file_name


Opener = Callable[[Complain], Annotated]  # reads a split; complains of every wrong entry, which it then leaves out


def hidden_note(hidden: list[str], folder: Path) -> list[str]:
    """A note that hidden files are left out, if there are any."""
    if not hidden:
        return []
    return [f"{len(hidden)} hidden files such as {hidden[0]} in {folder} are no images and are left out"]


def subfolder(root: Path, *names: str) -> Path | None:
    """The first of `root`'s folders that has one of these names, in any case of letters; None if there is none."""
    try:
        present = {entry.name: entry.name.lower() for entry in os.scandir(root) if entry.is_dir()}
    except OSError:
        return None
    for name in names:
        if name in present:
            return root / name
        found = sorted(each for each, lower in present.items() if lower == name.lower())
        if found:
            return root / found[0]
    return None


def folders_in(root: Path, beginning: str = "") -> list[Path]:
    """The folders in a folder that are not hidden and whose names begin so; none if it is absent."""
    found = root.iterdir() if root.is_dir() else ()
    return sorted(f for f in found if f.name.startswith(beginning) and not is_hidden(f.name) and f.is_dir())
