"""Sizes of images by their headers, where the annotations do not say them or are not to be trusted. No jax here."""

import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

from yolos_jax.data.annotations import Complain
from yolos_jax.data.upright import MEASURED
from yolos_jax.images.headers import ORIENTATION
from yolos_jax.images.reading import UnreadableImage, decoding

THREADS, PIECE = 8, 256  # images that a thread takes at once
MOST = 10**6  # pixels of a side


def is_side(value: Any) -> bool:
    """Whether it can be a side of an image in whole pixels."""
    return type(value) is int and 0 < value < MOST


def image_size(source: Any, name: str, upright: bool = False) -> tuple[int, int]:
    """(width, height) of an image file by its header, for an image as stored, or turned upright as EXIF says.

    `source` is a path or an open file. `UnreadableImage` if it is absent, damaged or none.
    """
    with decoding(f"the image {name}"):
        if isinstance(source, str) and not stat.S_ISREG(os.stat(source).st_mode):  # a named pipe would block
            raise UnreadableImage("it is no regular file.")
        with Image.open(source) as image:
            width, height = image.size
            # JPEG's header says whether there is any EXIF; looking for it in others costs little
            if upright and (image.format != "JPEG" or "exif" in image.info):
                turned = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)  # which swap the sides
                return (height, width) if turned else (width, height)
            return width, height


def measure(
    images: Sequence[dict[str, Any]],
    size_of: Callable[[dict[str, Any]], tuple[int, int] | None],
    complain: Complain,
    every: bool = False,
) -> tuple[int, int]:
    """Gives images without a width and a height those of their files; with `every`, all images.

    Args:
      size_of: (width, height) of an image's file; None leaves it as it is. `UnreadableImage` is complained of.

    Returns:
      How many images had no size, and how many had another one.
    """
    unknown = [image for image in images if every or not sized(image)]
    absent = other = 0

    def look(piece: Sequence[dict[str, Any]]) -> list[tuple[int, int] | str | None]:
        found: list[tuple[int, int] | str | None] = []
        for image in piece:
            try:
                found.append(size_of(image))
            except UnreadableImage as error:
                found.append(str(error))
        return found

    pieces = [unknown[start : start + PIECE] for start in range(0, len(unknown), PIECE)]
    with ThreadPoolExecutor(THREADS) as pool:
        for piece, sizes in zip(pieces, pool.map(look, pieces)):
            for image, size in zip(piece, sizes):
                if isinstance(size, str):
                    if not sized(image):  # otherwise whoever reads it says so
                        complain(f"image id {image['id']} has no size in its annotations, and {size}")
                elif size is not None:
                    absent += not sized(image)
                    other += sized(image) and size != (image["width"], image["height"])
                    image["width"], image["height"] = size
                    image[MEASURED] = True
    return absent, other


def sized(image: dict[str, Any]) -> bool:
    """Whether an entry of a COCO file says its image's size."""
    return is_side(image.get("width")) and is_side(image.get("height"))
