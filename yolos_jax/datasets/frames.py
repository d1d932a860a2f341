"""Image files with several images: frames of animations, or pages. No jax here."""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from yolos_jax.images.reading import DAMAGED, decoding, has_sixteen_bits, to_rgb
from yolos_jax.user_files import MOST_IMAGE, check_file

# Pillow's formats. In others only the first image is used: MPO contains previews and depth, PSD layers, ICO sizes.
ANIMATED = {"AVIF", "FLI", "GIF", "PNG", "WEBP"}  # their frames have durations
PAGED = {"DCX", "HEIF", "TIFF"}
SUBFILE, COPY_OR_MASK = 254, 0b101  # TIFF's subfile tag, and its bits for a thumbnail and a mask
UNTIMED = 0.1  # seconds for a frame without a duration, as in browsers


class TimedFrame(NamedTuple):
    """A frame of an animation."""

    seconds: float  # since the first frame
    lasts: float  # seconds
    image: Image.Image  # RGB


def frames_in(image: Image.Image) -> list[int]:
    """Indices, for `Image.seek`, of a file's images to use; in a damaged file, those before the damage.

    Leaves out thumbnails and masks among a TIFF file's pages, and an animation's default image for still viewers.
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

    animated: bool
    frames: list[int]  # see `frames_in`


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str], name: str) -> Iterator[Image.Image]:
    """Opens an image file; `UnreadableImage` calls it `name`."""
    with decoding(name):
        check_file(path, "the image", MOST_IMAGE)
        with Image.open(path) as image:
            yield image


def content_of(path: str | os.PathLike[str]) -> Content:
    """Whether a file's images are frames or pages, and which to use; `UnreadableImage` if it cannot be opened."""
    with _opened(path, f"the image {path}") as image:
        return Content(image.format in ANIMATED, frames_in(image))


def open_page(path: str | os.PathLike[str], page: int, upright: bool, stretch: bool) -> Image.Image:
    """A page of an image file, counted from 1, as RGB without EXIF; see `images.reading.open_rgb`."""
    with _opened(path, f"page {page} of {path}") as image:
        image.seek(page - 1)
        return _rgb(image, upright, stretch)


def animation(path: str | os.PathLike[str], upright: bool, stretch: bool) -> Iterator[TimedFrame]:
    """Yields the frames of an animation; `UnreadableImage` where it is damaged."""
    with _opened(path, f"the image {path}") as image:
        seconds = 0.0
        for frame in frames_in(image):
            image.seek(frame)
            rgb = _rgb(image, upright, stretch)
            lasts = image.info.get("duration", 0) / 1000 or UNTIMED
            yield TimedFrame(round(seconds, 6), lasts, rgb)
            seconds += lasts


def _rgb(image: Image.Image, upright: bool, stretch: bool) -> Image.Image:
    """A copy of the current frame, detached from its file and without EXIF, so that nothing turns it again."""
    deep = has_sixteen_bits(image)
    image.load()
    return Image.fromarray(np.asarray(to_rgb(image, upright, stretch and deep)))
