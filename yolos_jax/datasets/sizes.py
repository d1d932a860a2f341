"""Sizes of images by their headers, where the annotations do not say them or are not to be trusted. No jax here."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from yolos_jax.datasets.annotations import Complain
from yolos_jax.datasets.upright import MEASURED
from yolos_jax.images.headers import Header
from yolos_jax.images.reading import UnreadableImage

THREADS, PIECE = 8, 256  # images that a thread takes at once
MOST = 10**6  # pixels of a side


def is_side(value: Any) -> bool:
    """Whether it can be a side of an image in whole pixels."""
    return type(value) is int and 0 < value < MOST


def measure(
    images: Sequence[dict[str, Any]],
    header_of: Callable[[dict[str, Any]], Header | None],
    complain: Complain,
    every: bool = False,
    upright: bool = False,
) -> tuple[int, int]:
    """Gives images without a width and a height those of their files; with `every`, all images.

    Args:
      header_of: an image's measured header, which its entry keeps; None leaves it as it is. `UnreadableImage` is
        complained of.
      upright: whether sizes are those of the images as EXIF turns them.

    Returns:
      How many images had no size, and how many had another one.
    """
    unknown = [image for image in images if every or not sized(image)]
    absent = other = 0

    def look(piece: Sequence[dict[str, Any]]) -> list[Header | str | None]:
        found: list[Header | str | None] = []
        for image in piece:
            try:
                found.append(header_of(image))
            except UnreadableImage as error:
                found.append(str(error))
        return found

    pieces = [unknown[start : start + PIECE] for start in range(0, len(unknown), PIECE)]
    with ThreadPoolExecutor(THREADS) as pool:
        for piece, headers in zip(pieces, pool.map(look, pieces)):
            for image, header in zip(piece, headers):
                if isinstance(header, str):
                    if not sized(image):  # otherwise whoever reads it says so
                        complain(f"image id {image['id']} has no size in its annotations, and {header}")
                elif header is not None:
                    size = header.upright_size if upright else header.size
                    absent += not sized(image)
                    other += sized(image) and size != (image["width"], image["height"])
                    image["width"], image["height"] = size
                    image[MEASURED] = header
    return absent, other


def sized(image: dict[str, Any]) -> bool:
    """Whether an entry of a COCO file says its image's size."""
    return is_side(image.get("width")) and is_side(image.get("height"))
