"""Reads image files with several frames or pages. Does not import jax."""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from yolos_jax.images.reading import DAMAGED, decoding, has_sixteen_bits, to_rgb
from yolos_jax.user_files import MOST_IMAGE, check_file

# Names of formats in Pillow. In other formats, only the first image is used, because the additional images are previews
# and depth maps (MPO), layers (PSD) or other sizes (ICO).
ANIMATED = {"AVIF", "FLI", "GIF", "PNG", "WEBP"}  # formats whose frames have durations
PAGED = {"DCX", "HEIF", "TIFF"}
SUBFILE, COPY_OR_MASK = 254, 0b101  # TIFF's NewSubfileType tag, and its bits for thumbnails and masks
UNTIMED = 0.1  # duration in seconds of a frame that does not specify one, as in browsers


class TimedFrame(NamedTuple):
    """A frame of an animation."""

    seconds: float  # start time in seconds
    lasts: float  # duration in seconds
    image: Image.Image  # RGB


def frames_in(image: Image.Image) -> list[int]:
    """Returns the indices, for `Image.seek`, of the frames or pages to use; in a damaged file, those that can be read.

    Skips thumbnails and masks in TIFF files, and the default image of an animation, which is not one of its frames.
    """
    if image.format not in ANIMATED | PAGED:
        return [0]
    try:
        frames = range(getattr(image, "n_frames", 1))
    except DAMAGED:
        return [0]
    if image.info.get("default_image"):
        frames = frames[1:]
    if image.format == "TIFF" and len(frames) > 1:
        return _pages(image, frames)
    return list(frames)


def _pages(image: Image.Image, frames: range) -> list[int]:
    pages = []
    try:
        for frame in frames:
            image.seek(frame)
            kind = image.tag_v2.get(SUBFILE, 0)  # type: ignore[attr-defined]
            if frame == 0 or not kind & COPY_OR_MASK:
                pages.append(frame)
        image.seek(0)
    except DAMAGED:
        pass
    return pages


class Content(NamedTuple):
    """The images in a file."""

    animated: bool  # whether the images are frames of an animation rather than pages
    frames: list[int]  # see `frames_in`


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str], name: str) -> Iterator[Image.Image]:
    """Opens an image file; `name` is its name in the message of `UnreadableImage`."""
    with decoding(name):
        check_file(path, "the image", MOST_IMAGE)
        with Image.open(path) as image:
            yield image


def content_of(path: str | os.PathLike[str]) -> Content:
    """Lists the frames or pages in a file; raises `UnreadableImage` if it cannot be opened."""
    with _opened(path, f"the image {path}") as image:
        return Content(image.format in ANIMATED, frames_in(image))


def open_page(path: str | os.PathLike[str], page: int, upright: bool, stretch: bool) -> Image.Image:
    """Reads a page of an image file, counted from 1, as RGB without EXIF; see `images.reading.open_rgb`."""
    with _opened(path, f"page {page} of {path}") as image:
        image.seek(page - 1)
        return _rgb(image, upright, stretch)


def animation(path: str | os.PathLike[str], upright: bool, stretch: bool) -> Iterator[TimedFrame]:
    """Yields the frames of an animation; raises `UnreadableImage` at a damaged frame."""
    with _opened(path, f"the image {path}") as image:
        seconds = 0.0
        for frame in frames_in(image):
            image.seek(frame)
            rgb = _rgb(image, upright, stretch)
            lasts = image.info.get("duration", 0) / 1000 or UNTIMED
            yield TimedFrame(round(seconds, 6), lasts, rgb)
            seconds += lasts


def _rgb(image: Image.Image, upright: bool, stretch: bool) -> Image.Image:
    """Copies the current frame as RGB, detached from its file and without EXIF, so that it is not rotated again."""
    deep = has_sixteen_bits(image)
    image.load()
    return Image.fromarray(np.asarray(to_rgb(image, upright, stretch and deep)))
