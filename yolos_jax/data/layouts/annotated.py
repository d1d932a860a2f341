"""What every layout is turned into: a split of a data set as COCO writes it, in memory. No jax here."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from yolos_jax.data.annotations import Complain

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


def is_hidden(name: str) -> bool:
    """Whether a file is one of macOS (`._name`, `.DS_Store`) or hidden otherwise: never part of a data set."""
    return name.startswith(".")


def image_endings() -> set[str]:
    """Endings, such as `.jpg`, of files that Pillow opens."""
    Image.init()
    return {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def images_below(folder: Path, hidden: list[str] | None = None) -> Iterator[str]:
    """Paths, relative to the folder, of the images in it and below, in order; links are followed, once each.

    Names of hidden images are appended to `hidden` instead.
    """
    endings, seen = image_endings(), set()
    for at, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(at)
        folders[:] = [] if real in seen else sorted(name for name in folders if not is_hidden(name))
        if real in seen:
            continue
        seen.add(real)
        inside = os.path.relpath(at, folder)
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in endings:
                path = name if inside == "." else os.path.join(inside, name)
                if not is_hidden(name):
                    yield path
                elif hidden is not None:
                    hidden.append(path)


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
