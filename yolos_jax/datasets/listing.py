"""What lies in a folder: its images, hidden files and subfolders, by their names. No jax."""

import os
from collections.abc import Iterator
from pathlib import Path

from yolos_jax.images.reading import image_endings


def is_hidden(name: str) -> bool:
    """Whether a file is one of macOS (`._name`, `.DS_Store`) or hidden otherwise: never part of a data set."""
    return name.startswith(".")


def walk(folder: str | Path) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it, each with its files' names, in order; links are followed, once each."""
    seen = set[str]()
    for at, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(at)
        folders[:] = [] if real in seen else sorted(name for name in folders if not is_hidden(name))
        if real not in seen:
            yield at, sorted(names)
        seen.add(real)


def images_below(folder: Path, hidden: list[str] | None = None) -> Iterator[str]:
    """Paths, relative to the folder, of the images in it and below, in order; links are followed, once each.

    Names of hidden images are appended to `hidden` instead.
    """
    endings = image_endings()
    for at, names in walk(folder):
        inside = os.path.relpath(at, folder)
        for name in names:
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
    if not root.is_dir():
        return []
    names = [entry.name for entry in os.scandir(root) if entry.name.startswith(beginning) and entry.is_dir()]
    return [root / name for name in sorted(names) if not is_hidden(name)]
