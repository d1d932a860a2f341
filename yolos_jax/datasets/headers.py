"""Reads headers of image files: size, EXIF orientation, bits per channel and frames."""

import io
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from yolos_jax.datasets.frames import frames_in
from yolos_jax.errors import counted, first_few
from yolos_jax.images.reading import UnreadableImage, brightest, decoding, has_sixteen_bits, open_rgb
from yolos_jax.user_files import MOST_IMAGE, check_file

ORIENTATION = 0x0112  # EXIF tag: 1 is upright, 2 to 8 are rotated or mirrored
SWAPS = range(5, 9)  # orientations that swap width and height
_THREADS, _CHUNK = 8, 256
_PNG = b"\x89PNG\r\n\x1a\n"
_TAIL = 2**17  # number of bytes at the end of a PNG file to search for EXIF
_PNG_TEXTS = (b"eXIf", b"xif\0", b"com.adobe.xmp")  # markers of EXIF or XMP in a PNG file
_DARK = 2**6  # brightness (of 256) of the maximum 14-bit value in a 16-bit image
_DECODED = 8  # number of 16-bit images to decode before a run
DARK_HELP = "set data.sixteen_bit=stretch to map each image's maximum to white"

T = TypeVar("T")


class Header(NamedTuple):
    """The header of an image file. Unreadable files are treated as upright."""

    size: tuple[int, int] = (0, 0)  # (width, height) in pixels as stored; 0 if the file cannot be read
    orientation: int = 1  # EXIF orientation; 1 if Pillow applies it when loading
    sixteen: bool = False  # whether it has 16 or more bits per channel
    frames: int = 1  # number of frames or pages, see `frames_in`
    problem: str = ""  # why the file cannot be read

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) of the upright image."""
        return self.size[::-1] if self.orientation in SWAPS else self.size


def header_of(source: str | os.PathLike[str] | bytes, name: str = "") -> Header:
    """Reads the header of a file, given as a path or as bytes; `name` is its name in `problem`."""
    try:
        with decoding(f"the image {name or source!s}"):
            if isinstance(source, bytes):
                return _read(io.BytesIO(source))
            check_file(source, "the image", MOST_IMAGE)
            with open(source, "rb") as file:
                return _read(file)
    except UnreadableImage as error:
        return Header(problem=str(error))


def read_headers(items: Sequence[T], read: Callable[[T], Header] = header_of) -> list[Header]:  # type: ignore[assignment]
    """Reads the headers of many images and returns them in order; `items` are paths or other inputs of `read`.

    If reading the first headers mostly waits for the disk or network, threads read the rest. Otherwise, threads would
    block each other, because Pillow parses headers in Python.
    """
    started, computed = time.perf_counter(), time.thread_time()
    first = [read(item) for item in items[:_CHUNK]]
    waits = time.thread_time() - computed < (time.perf_counter() - started) / 2
    rest = items[_CHUNK:]
    if not waits:
        return first + [read(item) for item in rest]
    chunks = [rest[start : start + _CHUNK] for start in range(0, len(rest), _CHUNK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda chunk: [read(item) for item in chunk], chunks)
        return first + [header for chunk in found for header in chunk]


def _read(file: BinaryIO) -> Header:
    turned_png = _png_may_be_turned(file)
    with Image.open(file) as image:
        sixteen = has_sixteen_bits(image)
        orientation = 1
        # Pillow rotates TIFF files itself. In a PNG file without EXIF, `getexif` would decode the pixels.
        if image.format != "TIFF" and (image.format != "PNG" or turned_png):
            orientation = image.getexif().get(ORIENTATION, 1)
        orientation = orientation if orientation in range(2, 9) else 1
        size = image.size
        frames = frames_in(image)  # called last because it seeks
        return Header(size, orientation, sixteen, len(frames))


def _png_may_be_turned(file: BinaryIO) -> bool:
    """Whether a PNG file may contain EXIF or XMP, before or after the pixels."""
    head = file.read(4096)
    tail = b""
    if head.startswith(_PNG):
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        tail = file.read()
    file.seek(0)
    return any(text in part for text in _PNG_TEXTS for part in (head, tail))


def frames_note(files: Sequence[str], headers: Iterable[Header], origin: str) -> list[str]:
    """Returns a note with the number of frames and pages that are skipped, because only the first in a file is used."""
    several = {file: header.frames for file, header in zip(files, headers) if header.frames > 1}
    if not several:
        return []
    left = sum(several.values()) - len(several)
    files_are = f"{counted(len(several), 'file')} with several frames or pages (for example {next(iter(several))})"
    return [f"{origin} has {files_are}: only the first of each is used, and the other {left} are skipped"]


def left_out(sources: Sequence[Any], origin: str = "the input") -> list[str]:
    """Returns a `frames_note` for inputs of a `Detector`, except PIL images, whose frame the caller has selected."""
    encoded = [source for source in sources if isinstance(source, str | os.PathLike | bytes | bytearray | memoryview)]
    headers = [header_of(bytes(each) if isinstance(each, bytearray | memoryview) else each) for each in encoded]
    names = [str(each) if isinstance(each, str | os.PathLike) else "encoded bytes" for each in encoded]
    return frames_note(names, headers, origin)


def dark_note(files: Sequence[str], origin: str) -> list[str]:
    """Returns a note if some of these 16-bit files become almost black; decodes at most `_DECODED` of them."""
    places = np.unique(np.linspace(0, len(files) - 1, min(_DECODED, len(files))).astype(int))
    dark = [files[i] for i in places if _is_dark(files[i])]
    if not dark:
        return []
    looked = f"{len(dark)} of the {len(places)} images checked ({len(files)} in total) become almost black"
    return [f"16-bit images in {origin} do not use all bits: {looked} ({first_few(dark)}); {DARK_HELP}"]


def dark_files(files: Sequence[str]) -> list[str]:
    """Returns the 16-bit files that become almost black; decodes all 16-bit files."""
    return [file for file, header in zip(files, read_headers(files)) if header.sixteen and _is_dark(file)]


def _is_dark(file: str) -> bool:
    try:
        return brightest(open_rgb(file)) < _DARK
    except UnreadableImage:
        return False
