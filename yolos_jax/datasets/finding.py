"""Finds listed images, including those with misspelled file names. Does not import jax."""

import dataclasses
import difflib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from yolos_jax.datasets.annotations import Annotations, Complain, PackedImages
from yolos_jax.datasets.listing import images_below

FEW = 3  # maximum number of suggestions in a message
NEAR = 5  # maximum number of missing images for which to search for similar names, which is slow


@dataclasses.dataclass(frozen=True)
class Located:
    """The locations of a split's images."""

    files: dict[int, str]  # path of each image id; for packed images, a name for messages
    absent: tuple[str, ...] = ()  # paths in `files` that do not exist
    renamed: dict[str, str] = dataclasses.field(default_factory=dict)  # maps misspelled file names to paths
    notes: tuple[str, ...] = ()


def locate(found: Annotations, images: Sequence[dict[str, Any]], keep_absent: bool, complain: Complain) -> Located:
    """Locates the images of these entries.

    Images outside the folder are reported and skipped, as are missing images unless `keep_absent` is set.
    """
    if found.packed is not None:
        return _locate_packed(found, found.packed, images, complain)
    if not found.by_spelling:
        return Located({image["id"]: os.path.join(found.image_folder, image["file_name"]) for image in images})
    finder = Finder(found.image_folder, [image["file_name"] for image in found.content["images"]])
    files, absent = {}, []
    for image in images:
        name = image["file_name"]
        if finder.outside(name):
            complain(f"image id {image['id']} in {found.origin} is outside {found.image_folder}.")
            continue
        path = finder.find(name)
        if path is None:
            path = os.path.join(found.image_folder, name)
            if not keep_absent:
                near = finder.near(name)
                complain(f"image id {image['id']} is listed in {found.origin} but {path} does not exist{near}.")
                continue
            absent.append(path)
        files[image["id"]] = path
    return Located(files, tuple(absent), finder.renamed, tuple(finder.note(found.origin)))


def _locate_packed(
    found: Annotations, packed: PackedImages, images: Sequence[dict[str, Any]], complain: Complain
) -> Located:
    files = {image["id"]: f"{image['file_name']} in {packed}" for image in images if image["id"] in packed}
    absent = [image["id"] for image in images if image["id"] not in files]
    if absent:
        listed = f"{len(absent)} of {len(found.content['images'])} images listed in {found.origin}"
        such = f"are not in {packed} (for example image id {absent[0]})"
        complain(f"{listed} {such}; use the annotation file that the data set was prepared from.")
    return Located(files)


class _Paths(NamedTuple):
    """Dicts from lower-case keys to the paths of matching images in a folder."""

    whole: dict[str, list[str]]  # the keys are relative paths
    name: dict[str, list[str]]  # the keys are file names
    stem: dict[str, list[str]]  # the keys are file names without extension


class Finder:
    """Finds the images of a folder by their names in an annotation file.

    An exact match is preferred. Otherwise, a name may differ from the path in slashes and backslashes, URL encoding,
    case, additional or missing parent folders, or a missing extension, if it matches exactly one image that is not
    listed by its exact name. Symbolic links are followed; only the path as written must be inside the folder.

    Args:
      folder: the folder of images.
      names: all file names in the annotations.
    """

    def __init__(self, folder: Path, names: Iterable[str]):
        self.folder, self._named = str(folder), list(names)
        self._whole = os.path.abspath(folder)
        self._present = {entry.name for entry in os.scandir(folder)}
        self.renamed: dict[str, str] = {}  # maps misspelled file names to paths
        self._taken: set[str] = set()
        self._missing = 0

    def outside(self, name: str) -> bool:
        """Whether the path as written is outside the folder."""
        path = os.path.normpath(os.path.join(self._whole, name))
        return not path.startswith(os.path.join(self._whole, ""))

    def find(self, name: str) -> str | None:
        """Returns the path of an image, or None if it is not found."""
        # The set of names saves one system call per image; names in subfolders are checked on disk.
        path = os.path.join(self.folder, name)
        if name in self._present or os.path.isfile(path):
            return path
        if name not in self.renamed:
            fits = [os.path.join(self.folder, path) for path in self._fits(name)]
            if len(fits) != 1 or fits[0] in self._taken:  # an image is matched with at most one misspelled name
                return None
            self.renamed[name] = fits[0]
            self._taken.add(fits[0])
        return self.renamed[name]

    def near(self, name: str) -> str:
        """Returns suggestions for a missing image as text; searches for similar names only in the first few calls."""
        self._missing += 1
        fits = self._fits(name)
        if len(fits) > 1:
            return f" ({len(fits)} images match the name: {', '.join(sorted(fits)[:FEW])})"
        if self._missing > NEAR:
            return ""
        near = difflib.get_close_matches(os.path.basename(name), self._free.name, FEW, 0.75)
        return f" (similar names: {', '.join(sorted(near))})" if near else ""

    def note(self, origin: str) -> list[str]:
        """Returns a note about images with misspelled file names."""
        if not self.renamed:
            return []
        first, *_ = self.renamed
        images = f"{len(self.renamed)} images in {origin} were found under a different spelling"
        return [f"{images} (for example {first!r} as {self.renamed[first]})"]

    def _fits(self, name: str) -> list[str]:
        """Returns the paths in the folder that match a misspelled name, using the strictest rule that matches."""
        for spelling in dict.fromkeys((name.replace("\\", "/"), unquote(name).replace("\\", "/"))):
            parts = [part for part in spelling.lower().split("/") if part not in ("", ".")]
            if not parts or ".." in parts:
                continue
            for start in range(len(parts)):  # drops leading folders, as few as possible
                fits = self._free.whole.get("/".join(parts[start:]), [])
                if fits:
                    return fits
            deeper = [path for path in self._free.name.get(parts[-1], []) if path.lower().endswith("/".join(parts))]
            if deeper:
                return deeper
            if not os.path.splitext(parts[-1])[1]:
                return self._free.stem.get(parts[-1], [])
        return []

    @cached_property
    def _free(self) -> _Paths:
        """Images that are not listed by their exact names."""
        named = {os.path.normpath(name) for name in self._named}
        found = _Paths(defaultdict(list), defaultdict(list), defaultdict(list))
        for path in images_below(Path(self.folder)):
            if path not in named:
                name = os.path.basename(path).lower()
                found.whole[path.lower()].append(path)
                found.name[name].append(path)
                found.stem[os.path.splitext(name)[0]].append(path)
        return found
