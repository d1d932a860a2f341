"""Reads images of any kind as RGB, with Pillow and NumPy only; no jax."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from yolos_jax.errors import InputError
from yolos_jax.user_files import MOST_IMAGE, UnusableFile, check_file

with contextlib.suppress(ImportError):  # the extra `heif`: lets Pillow open HEIF files
    import pillow_heif

    pillow_heif.register_heif_opener()

# Formats that Pillow recognises but cannot decode.
NOT_DECODED = {"BUFR", "GRIB", "HDF5", "MPEG"} | (set() if sys.platform == "win32" else {"WMF"})
HEIF = {".heic", ".heif"}  # endings that need pillow-heif
HELP_WITH_HEIF = "pip install 'yolos-jax[heif]' adds support for .heic"
# Exceptions that Pillow's decoders raise for damaged files, depending on the format.
DAMAGED = (OSError, SyntaxError, ValueError, RuntimeError, TypeError, EOFError, Image.DecompressionBombError)


class UnreadableImage(Exception):
    """An image that cannot be used; the message is one sentence and names the image."""


class TooManyPixels(UnreadableImage):
    """An image with more pixels than twice `PIL.Image.MAX_IMAGE_PIXELS`, Pillow's limit against decompression bombs."""


class Array(Protocol):
    """Anything that NumPy can convert to an array: `np.ndarray`, `jax.Array` and others."""

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray: ...


ImageLike = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | Array


def image_endings() -> set[str]:
    """Endings, such as `.jpg`, of files that Pillow decodes, and pillow-heif if installed."""
    Image.init()
    found = Image.registered_extensions().items()
    return {ending for ending, kind in found if kind in Image.OPEN and kind not in NOT_DECODED}


def open_rgb(path: str | os.PathLike[str], upright: bool = False, stretch: bool = False) -> Image.Image:
    """Fully decodes an image file of any format that Pillow reads, and converts it to RGB.

    `upright` applies its EXIF orientation (Pillow always does for TIFF files); `stretch`: see `to_rgb`.
    `UnreadableImage` if the file is missing, damaged, not an image or not a regular file (a named pipe would block).
    """
    with decoding(f"the image {path}"):
        check_file(path, "the image", MOST_IMAGE)
        return decode(path, upright, stretch)


def read_rgb(image: ImageLike, name: str = "the image", stretch: bool = False) -> Image.Image:
    """An image of any kind, upright and as RGB.

    Args:
      image: a path; the bytes of an image file; a file opened in binary mode, which is read from its start if it
        is seekable; a PIL image; or a uint8 array as for `from_array`.
      name: name in errors for an image without a path.
      stretch: see `to_rgb`.

    Raises:
      UnreadableImage: the image is missing or damaged, or not an image.
      InputError: `image` is of another type.
    """
    if isinstance(image, str | os.PathLike):
        return open_rgb(image, upright=True, stretch=stretch)
    if hasattr(image, "read"):
        image = file_bytes(image, name)
    with decoding(name):
        if isinstance(image, bytes | bytearray | memoryview):
            return decode(io.BytesIO(image), upright=True, stretch=stretch)
        if isinstance(image, Image.Image):
            image.load()
            return to_rgb(image, upright=True, stretch=stretch and image.mode.startswith("I"))
        if hasattr(image, "__array__"):
            return from_array(np.asarray(image))
    kinds = "a path, bytes, an open file, a PIL image or an array"
    raise InputError(f"{name} is of type {type(image).__name__}; it must be {kinds}.")


def file_bytes(file: Any, name: str) -> bytes:
    """All bytes of an open file, rewound first if it is seekable; `InputError` if it was opened in text mode."""
    with decoding(name):
        if hasattr(file, "seekable") and file.seekable():
            file.seek(0)
        data = file.read()
        if not isinstance(data, bytes):
            raise InputError(f"{name} is a file that was not opened in binary mode; open it with mode 'rb'.")
        return data


@contextlib.contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turns any exception of a decoder into `UnreadableImage` with the image's name."""
    try:
        yield
    except UnreadableImage as error:
        raise UnreadableImage(f"{name} cannot be used: {error}") from error
    except FileNotFoundError as error:
        raise UnreadableImage(f"{name} does not exist.") from error
    except UnusableFile as error:
        raise UnreadableImage(str(error)) from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise TooManyPixels(
            f"{name} has more than {most} pixels, Pillow's limit against decompression bombs."
        ) from error
    except DAMAGED as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError) and "BytesIO" in reason:  # would show a memory address
            reason = "Pillow does not recognise its format"
        raise UnreadableImage(f"{name} cannot be read ({reason}).") from error


def decode(source: Any, upright: bool = False, stretch: bool = False) -> Image.Image:
    """Fully decodes a path or an open file; see `to_rgb`."""
    with Image.open(source) as image:
        deep = has_sixteen_bits(image)
        image.load()
        return to_rgb(image, upright, stretch and deep)


def has_sixteen_bits(image: Image.Image) -> bool:
    """Whether an image that is open but not loaded has 16 or more bits per channel."""
    tiles = getattr(image, "tile", None)  # absent from images made in memory
    args = tiles[0].args if tiles else ""
    raw = args if isinstance(args, str) else (args or ("",))[0]  # such as RGB;16B
    return image.mode.startswith("I") or ";16" in str(raw)


def to_rgb(image: Image.Image, upright: bool = False, stretch: bool = False) -> Image.Image:
    """Converts greyscale (8 or 16 bits), palette, CMYK... to RGB; drops transparency, as in the reference.

    `stretch` maps the image's maximum to white instead of the largest 16-bit value. Pillow keeps only the upper 8
    of 16 bits in colour images, so these get few shades. `UnreadableImage` for floating-point images, whose scale
    is unknown.
    """
    if upright:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise UnreadableImage("a floating-point image has no defined scale; convert it to 8 bits.")
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        # Pillow would clip 16-bit values at 255 instead of scaling them
        values = np.asarray(image).astype(np.float64)
        values *= 255.0 / (max(1.0, values.max()) if stretch else 65535.0)
        return Image.fromarray(np.clip(values, 0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode == "La":  # premultiplied; Pillow converts it only through LA
        image = image.convert("LA")
    image = image if image.mode == "RGB" else image.convert("RGB")
    if stretch and (most := brightest(image)):
        image = image.point([min(255, round(v * 255 / most)) for v in range(256)] * 3)
    return image


def brightest(image: Image.Image) -> int:
    """The largest value of any channel of an RGB image."""
    return max(high for _, high in image.getextrema())  # type: ignore[misc]


def from_array(array: np.ndarray) -> Image.Image:
    """uint8 `[h, w]`, `[h, w, 1]`, `[h, w, 3]` (RGB) or `[h, w, 4]` (RGBA) -> RGB; else `UnreadableImage`."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)) or not array.size:
        wanted = "uint8 [height, width], [height, width, 3] or [height, width, 4]"
        found = f"an array of shape {array.shape} and type {array.dtype}"
        raise UnreadableImage(f"{found} is not an image; it must be {wanted}.")
    return to_rgb(Image.fromarray(array))
