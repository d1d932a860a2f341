"""Reading images of any kind as RGB. Pillow only; no jax."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

ORIENTATION = 0x0112  # EXIF tag; 1 is upright

# What Pillow's decoders raise for damaged files of one format or another.
DAMAGED = (OSError, SyntaxError, ValueError, RuntimeError, TypeError, EOFError)


class UnreadableImage(Exception):
    """An image that cannot be used, told in one sentence that names it."""


def open_rgb(path: str | Path, upright: bool = False) -> Image.Image:
    """Decodes an image completely and converts it to RGB.

    Args:
      path: any format Pillow reads.
      upright: turn it as its EXIF tag says. Data sets leave it as stored,
        because their boxes belong to the stored pixels.

    Raises:
      UnreadableImage: absent, damaged or no image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(image, upright)
    except UnreadableImage as error:
        raise UnreadableImage(f"the image {path} cannot be used: {error}") from error
    except FileNotFoundError as error:
        raise UnreadableImage(f"the image {path} does not exist.") from error
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise UnreadableImage(f"the image {path} cannot be read ({str(error) or type(error).__name__}).") from error


def to_rgb(image: Image.Image, upright: bool = False) -> Image.Image:
    """Greyscale (8 or 16 bits), palette, CMYK... -> RGB; transparency is dropped, as the reference does.

    `UnreadableImage` for images of floats, whose scale nobody knows.
    """
    if upright and image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise UnreadableImage("an image of floating-point numbers has no scale of its own; convert it to 8 bits.")
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        # Pillow would clip 16 bits at 255 instead of scaling them
        values = np.asarray(image).astype(np.float64) / 257.0
        image = Image.fromarray(np.clip(values, 0, 255).round().astype(np.uint8))
    if image.mode == "La":  # premultiplied; Pillow converts it by way of LA only
        image = image.convert("LA")
    return image if image.mode == "RGB" else image.convert("RGB")


def from_array(array: np.ndarray) -> Image.Image:
    """uint8 `[h, w]`, `[h, w, 1]`, `[h, w, 3]` (RGB) or `[h, w, 4]` (RGBA) -> RGB; else `UnreadableImage`."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)) or not array.size:
        raise UnreadableImage(
            f"an array of shape {array.shape} and type {array.dtype} is no image; "
            "it must be uint8 [height, width], [height, width, 3] or [height, width, 4]."
        )
    return to_rgb(Image.fromarray(array))
