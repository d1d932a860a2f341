"""Finds the inputs for prediction: files, folders, patterns, URLs, videos and cameras. Does not import jax."""

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
from yolos_jax.datasets.listing import LeftOut, described, ending_of, is_hidden, walk
from yolos_jax.errors import InputError, check_path, counted
from yolos_jax.images.reading import image_endings
from yolos_jax.inference import lists
from yolos_jax.inference.fetching import SCHEMES

VIDEO_ENDINGS = {
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm",
    ".wmv",
}  # fmt: skip
CAMERA = re.compile(r"camera:(\d{1,3})")
ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
STREAMS = ("rtsp", "rtsps", "rtmp")  # URL schemes of streams
NO_NAME = re.compile(r"[^\w.-]+")  # characters of a URL that are replaced in file names


class Input(NamedTuple):
    """An image, an animation, a video, a camera or a stream."""

    kind: str  # "image", "address", "animation", "video", "camera" or "stream"
    name: str  # as given or found: a path, a URL, `camera:0`
    page: int = 0  # page in a multi-page image file, starting at 1; 0 for other inputs

    @property
    def moves(self) -> bool:
        """Whether the input is read frame by frame."""
        return self.kind in ("animation", "video", "camera", "stream")

    @property
    def endless(self) -> bool:
        """Whether the input continues until the user stops it."""
        return self.kind in ("camera", "stream")

    @property
    def stem(self) -> str:
        """The base name for output files."""
        if self.kind == "camera":
            return self.name.replace(":", "")
        if self.kind in ("address", "stream"):
            parts = urlsplit(self.name)
            path = PurePosixPath(unquote(parts.path))
            return NO_NAME.sub("_", path.stem or parts.hostname or "").strip("._")[:100] or "image"
        return Path(self.name).stem + (f"-page{self.page}" if self.page else "")


class Found(NamedTuple):
    """The inputs found for the command-line arguments."""

    inputs: list[Input]
    notes: list[str]  # one message for each folder or pattern with ignored files


def find(given: Sequence[str], recursive: bool = False) -> Found:
    """Expands files, folders, patterns, URLs, videos, cameras, streams and lists into inputs, in the given order.

    A folder is expanded to its images whose file extension Pillow supports; with `recursive`, subfolders are included.
    A pattern such as `photos/**/*.jpg` is expanded to matching files. A .txt, .csv or .tsv file is a list of inputs
    (see `lists.read_list`). Any other file given by name is used regardless of its extension.

    Raises:
      InputError: a folder, pattern or list contains no input, or a URL's scheme is not supported.
    """
    inputs: list[Input] = []
    notes: list[str] = []
    for name in lists.expand(given, notes):
        address = ADDRESS.match(name)
        if CAMERA.fullmatch(name):
            inputs.append(Input("camera", name))
        elif address:
            inputs.append(_address(name, address[1].lower()))
        elif os.path.isdir(name):
            left = LeftOut()
            entries = _entries(name, recursive, left)
            inside = "" if recursive else "use --recursive to include them"
            inputs += _images_among(entries, left, notes, f"the folder {name}", inside)
        elif glob.has_magic(name) and not os.path.lexists(name):
            entries = [(path, os.path.isdir(path)) for path in sorted(glob.glob(_literal(name), recursive=True))]
            inside = "" if "**" in name else "use ** to include them"
            inputs += _images_among(entries, LeftOut(), notes, f"the pattern {name}", inside)
        else:
            check_path(name)
            moves = ending_of(name) in VIDEO_ENDINGS
            inputs.append(Input("video" if moves else "image", os.path.normpath(name) if name else name))
    return Found(inputs, notes)


def _literal(pattern: str) -> str:
    """Escapes a pattern's leading folders if they exist under these exact names, as in `set [1]/*.jpg`."""
    *folders, last = pattern.split(os.sep)
    literal: list[str] = []
    for folder in folders:
        if not os.path.isdir(os.sep.join([*literal, folder]) or os.sep):
            break
        literal.append(folder)
    return os.sep.join([*map(glob.escape, literal), *folders[len(literal) :], last])


def _address(name: str, scheme: str) -> Input:
    if scheme in STREAMS:
        return Input("stream", name)
    if scheme not in SCHEMES:
        streams = ", ".join(STREAMS)
        raise InputError(
            f"the scheme {scheme} of {name} is not supported; use http(s) for images, or {streams} for streams."
        )
    if PurePosixPath(urlsplit(name).path).suffix.lower() in VIDEO_ENDINGS:
        raise InputError(f"{name} is the URL of a video; download it and use the file.")
    return Input("address", name)


def _entries(folder: str, recursive: bool, left: LeftOut) -> list[tuple[str, bool]]:
    """(path, whether it is a folder) for a folder's entries, or for all files below it; each link is followed once."""
    if recursive:
        return [(os.path.join(at, name), False) for at, names in walk(folder, left) for name in names]
    return [(path, os.path.isdir(path)) for path in sorted(entry.path for entry in os.scandir(folder))]


def _images_among(
    entries: Sequence[tuple[str, bool]], left: LeftOut, notes: list[str], what: str, inside: str
) -> list[Input]:
    """The images among `entries`; adds a note about ignored ones, and on folders if the hint `inside` is not empty."""
    endings = image_endings()
    images = []
    for path, is_folder in entries:
        ending = ending_of(path)
        if is_hidden(os.path.basename(path)):
            left.add(path, "hidden folder" if is_folder else "")
        elif is_folder and inside:
            left.add(path, "folder")
        elif is_folder:
            continue
        elif ending in VIDEO_ENDINGS:
            left.add(path, "video")
        elif ending in endings:
            images.append(Input("image", os.path.normpath(path)))
        else:
            left.add(path)
    ignored = _described(left.kinds, inside)
    if not images:
        found = f" ({ignored})" if ignored else ""
        raise InputError(f"{what} contains no images that Pillow can read{found}.")
    if ignored:
        notes.append(f"ignored in {what}: {ignored}")
    return images


def _described(kinds: Counter[str], inside: str) -> str:
    """Describes ignored entries by kind, with hints on how to include them; `inside` is the hint for folders."""
    advice = {"video": "pass each one by name", "folder": inside}
    plain = Counter({kind: n for kind, n in kinds.items() if kind not in advice})
    parts = [described(plain)] if plain else []
    parts += [f"{counted(kinds[kind], kind)} ({how})" for kind, how in advice.items() if kinds[kind]]
    return ", ".join(parts)


def with_frames(inputs: Sequence[Input], most: int = 0) -> list[Input]:
    """Turns image files with several frames into animations, and files with several pages into one input per page.

    Args:
      most: maximum number of pages per file; 0 for all.
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
