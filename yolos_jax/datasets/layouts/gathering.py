"""Collects the images and boxes of a layout in COCO format. Does not import jax."""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from yolos_jax.datasets.annotations import Content
from yolos_jax.datasets.listing import BESIDE, LeftOut, images_below, is_hidden
from yolos_jax.errors import InputError, counted
from yolos_jax.user_files import read_text


class Gathered:
    """Images and boxes in COCO format, with ids starting at 1 in the order in which they are added.

    Args:
      numbers: maps category names to ids.
    """

    def __init__(self, numbers: Mapping[str, int]):
        self._numbers = numbers
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def image(self, file_name: str, **size: int) -> None:
        """Adds an image, with width and height if known. Boxes added afterwards belong to it."""
        self._images.append({"id": len(self._images) + 1, "file_name": file_name} | size)

    def box(self, name: str, box: Sequence[float], ignored: bool = False, **more: int) -> None:
        """Adds a box [x, y, width, height]; an `ignored` box has iscrowd 1, so training and scoring ignore it."""
        one = {"id": len(self._annotations) + 1, "image_id": len(self._images), "category_id": self._numbers[name]}
        shape = {"bbox": list(box), "area": box[2] * box[3], "iscrowd": int(ignored)}
        self._annotations.append(one | shape | more)

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self._images)

    @property
    def content(self) -> Content:
        """The content collected so far."""
        categories = [{"id": number, "name": name} for name, number in self._numbers.items()]
        return {"images": self._images, "annotations": self._annotations, "categories": categories}


def text_files(folder: Path) -> list[Path]:
    """Returns the text files in a folder, sorted by name."""
    return sorted(file for file in folder.glob("*.txt") if not is_hidden(file.name))


def images_by_stem(folder: Path, left: LeftOut) -> dict[str, str]:
    """Maps file names without extension to relative paths, for all images in a folder and its subfolders."""
    return {Path(name).stem: name for name in images_below(folder, left, BESIDE)}


def unlabelled_note(names: Collection[str], folder: Path) -> list[str]:
    """Returns a note about images without a text file, if there are any; `names` are file names without extension."""
    if not names:
        return []
    return [f"skipped {counted(len(names), 'image')} in {folder} without a text file (for example {min(names)})"]


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, line) for each non-empty line of a text file; `InputError` if it is unreadable."""
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if line.strip():
            yield number, line.strip()


def first_lines(files: Sequence[Path], most: int = 20) -> Iterator[str]:
    """Yields the lines of the first `most` files, for recognising a layout; skips unreadable files."""
    for file in files[:most]:
        with contextlib.suppress(InputError):
            yield from (line for _, line in lines_of(file))


def numbers_in(words: Sequence[str]) -> list[float] | None:
    """Converts words to numbers; returns None if a word is not a number or its absolute value is a million or more."""
    try:
        found = [float(word) for word in words]
    except ValueError:
        return None
    return found if all(abs(value) < 1e6 for value in found) else None
