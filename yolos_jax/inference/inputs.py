"""Finds the inputs of a prediction: files, folders, patterns, addresses, videos and cameras. No jax here."""

import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from yolos_jax.datasets.frames import content_of
from yolos_jax.datasets.headers import read_headers
from yolos_jax.datasets.listing import is_hidden, walk
from yolos_jax.errors import InputError, check_path, counted
from yolos_jax.images.reading import HEIF, HELP_WITH_HEIF, image_endings
from yolos_jax.inference.fetching import SCHEMES

VIDEO_ENDINGS = {
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv",
}  # fmt: skip
CAMERA = re.compile(r"camera:(\d{1,3})")
ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
NO_NAME = re.compile(r"[^\w.-]+")  # characters of an address that are kept out of a file's name
FEW = 6  # kinds of files named in a note


class Input(NamedTuple):
    """An image, an animation, a video or a camera."""

    kind: str  # "image", "address", "animation", "video" or "camera"
    name: str  # as it was given or found: a path, a URL, `camera:0`
    page: int = 0  # of an image file with several, from 1; 0 for others

    @property
    def moves(self) -> bool:
        """Whether it is read frame by frame."""
        return self.kind in ("animation", "video", "camera")

    @property
    def stem(self) -> str:
        """The name that outputs are called after."""
        if self.kind == "camera":
            return self.name.replace(":", "")
        if self.kind == "address":
            parts = urlsplit(self.name)
            path = PurePosixPath(unquote(parts.path))
            return NO_NAME.sub("_", path.stem or parts.netloc).strip("._")[:100] or "image"
        return Path(self.name).stem + (f"-page{self.page}" if self.page else "")


class Found(NamedTuple):
    """The inputs that a command line names."""

    inputs: list[Input]
    notes: list[str]  # a sentence for each folder or pattern of which something is ignored


def find(given: Sequence[str], recursive: bool = False) -> Found:
    """The inputs that files, folders, patterns, addresses, videos and cameras name, in order.

    A folder gives the images in it whose ending Pillow knows, with `recursive` those below it, too; a pattern such as
    `photos/**/*.jpg` gives files. A file that is named itself is taken whatever its ending.

    Raises:
      InputError: a folder or a pattern gives nothing, or an address is neither http nor https.
    """
    inputs: list[Input] = []
    notes: list[str] = []
    for name in given:
        address = ADDRESS.match(name)
        if CAMERA.fullmatch(name):
            inputs.append(Input("camera", name))
        elif address:
            inputs.append(_address(name, address[1].lower()))
        elif os.path.isdir(name):
            inputs += _images_among(_entries(name, recursive), notes, f"the folder {name}", not recursive)
        elif glob.has_magic(name) and not os.path.lexists(name):
            entries = [(path, os.path.isdir(path)) for path in sorted(glob.glob(name, recursive=True))]
            inputs += _images_among(entries, notes, f"the pattern {name}")
        else:
            check_path(name)
            moves = Path(name).suffix.lower() in VIDEO_ENDINGS
            inputs.append(Input("video" if moves else "image", os.path.normpath(name) if name else name))
    return Found(inputs, notes)


def _address(name: str, scheme: str) -> Input:
    if scheme not in SCHEMES:
        raise InputError(f"{name} is an address of {scheme}; only http and https are fetched.")
    if PurePosixPath(urlsplit(name).path).suffix.lower() in VIDEO_ENDINGS:
        raise InputError(f"{name} is the address of a video; download it, and give the file.")
    return Input("address", name)


def _entries(folder: str, recursive: bool) -> list[tuple[str, bool]]:
    """(path, whether it is a folder) of what lies in a folder, or at any depth below; links are followed, once each."""
    if recursive:
        return [(os.path.join(at, name), False) for at, names in walk(folder) for name in names]
    return [(path, os.path.isdir(path)) for path in sorted(entry.path for entry in os.scandir(folder))]


def _images_among(
    entries: Sequence[tuple[str, bool]], notes: list[str], what: str, count_folders: bool = False
) -> list[Input]:
    """The images among some entries; a note names the kinds of the others."""
    endings = image_endings()
    images = []
    others = Counter[str]()
    for path, is_folder in entries:
        ending = os.path.splitext(path)[1].lower()
        if is_hidden(os.path.basename(path)):
            others["hidden"] += 1
        elif is_folder:
            others["folder"] += count_folders
        elif ending in VIDEO_ENDINGS:
            others["video"] += 1
        elif ending in endings:
            images.append(Input("image", os.path.normpath(path)))
        else:
            others[ending or "no ending"] += 1
    ignored = _described(+others)
    if not images:
        found = f" ({ignored})" if ignored else ""
        raise InputError(f"{what} holds no images of a kind that Pillow reads{found}.")
    if ignored:
        notes.append(f"in {what}, not looked at: {ignored}")
    return images


def _described(others: Counter[str]) -> str:
    """How many entries of each kind are ignored, and how to have them read."""
    hidden, folders, videos = (others.pop(kind, 0) for kind in ("hidden", "folder", "video"))
    parts = []
    if others:
        kinds = [f"{kind} {count}" for kind, count in others.most_common(FEW)]
        if len(others) > FEW:
            kinds.append("...")
        advice = f"; {HELP_WITH_HEIF}" if HEIF & others.keys() else ""
        parts.append(f"{counted(others.total(), 'other file')} ({', '.join(kinds)}{advice})")
    if hidden:
        parts.append(counted(hidden, "hidden file"))
    if videos:
        parts.append(f"{counted(videos, 'video')} (give each by its name)")
    if folders:
        parts.append(f"{counted(folders, 'folder')} (--recursive looks there)")
    return ", ".join(parts)


def with_frames(inputs: Sequence[Input], most: int = 0) -> list[Input]:
    """The same inputs, where an image file of several frames is an animation, and one of pages an input for each page.

    Args:
      most: pages of a file that are taken; 0 for all.
    """
    files = [one.name for one in inputs if one.kind == "image"]
    several = {file for file, header in zip(files, read_headers(files)) if header.frames > 1}
    out: list[Input] = []
    for one in inputs:
        if one.kind != "image" or one.name not in several:
            out.append(one)
            continue
        content = content_of(one.name)
        if content.animated:
            out.append(Input("animation", one.name))
        else:
            out += [Input("image", one.name, frame + 1) for frame in content.frames[: most or None]]
    return out
