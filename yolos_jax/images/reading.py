"""Reads images from files, bytes, arrays and PIL images as RGB. Does not import jax."""

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

with contextlib.suppress(ImportError):  # the extra `heif` enables Pillow to open HEIF files
    import pillow_heif

    pillow_heif.register_heif_opener()

# Formats that Pillow recognises but cannot decode.
NOT_DECODED = {"BUFR", "GRIB", "HDF5", "MPEG"} | (set() if sys.platform == "win32" else {"WMF"})
HEIF = {".heic", ".heif"}  # file extensions that need pillow-heif
HELP_WITH_HEIF = "pip install 'yolos-jax[heif]' adds support for .heic"
# Exceptions that Pillow's decoders raise for damaged files, depending on the format.
DAMAGED = (OSError, SyntaxError, ValueError, RuntimeError, TypeError, EOFError, Image.DecompressionBombError)


class UnreadableImage(Exception):
    """Raised if an image cannot be used; the message is one sentence that names the image."""


class TooManyPixels(UnreadableImage):
    """Raised if an image has more than `2 * Image.MAX_IMAGE_PIXELS` pixels, Pillow's limit for decompression bombs."""


class Array(Protocol):
    """Anything that NumPy can convert to an array: `np.ndarray`, `jax.Array` and others."""

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray: ...


ImageLike = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | Array


def image_endings() -> set[str]:
    """Returns the file extensions that Pillow can decode, such as `.jpg`; includes HEIF if pillow-heif is installed."""
    Image.init()
    found = Image.registered_extensions().items()
    return {ending for ending, kind in found if kind in Image.OPEN and kind not in NOT_DECODED}


def open_rgb(path: str | os.PathLike[str], upright: bool = False, stretch: bool = False) -> Image.Image:
    """Decodes an image file in any format that Pillow supports, and converts it to RGB.

    `upright` applies the EXIF orientation (Pillow always does so for TIFF); for `stretch`, see `to_rgb`. Raises
    `UnreadableImage` if the file is missing, damaged, not an image or not a regular file (a named pipe would block).
    """
    with decoding(f"the image {path}"):
        check_file(path, "the image", MOST_IMAGE)
        return decode(path, upright, stretch)


def read_rgb(image: ImageLike, name: str = "the image", stretch: bool = False) -> Image.Image:
    """Converts any supported input to an upright RGB image.

    Args:
      image: a path, the bytes of an image file, a file opened in binary mode, a PIL image, or a uint8 array that
        `from_array` accepts. A seekable file is read from its start.
      name: name of an image without a path, for error messages.
      stretch: see `to_rgb`.

    Raises:
      UnreadableImage: the image is missing, damaged or not an image.
      InputError: `image` has an unsupported type.
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
    """Reads an open file, from its start if it is seekable; raises `InputError` if it was opened in text mode."""
    with decoding(name):
        if hasattr(file, "seekable") and file.seekable():
            file.seek(0)
        data = file.read()
        if not isinstance(data, bytes):
            raise InputError(f"{name} is a file opened in text mode; open it with mode 'rb'.")
        return data


@contextlib.contextmanager
def decoding(name: str) -> Iterator[None]:
    """Converts any exception raised by a decoder to `UnreadableImage` with the name of the image."""
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
        raise TooManyPixels(f"{name} has more than {most} pixels, Pillow's limit for decompression bombs.") from error
    except DAMAGED as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError) and "BytesIO" in reason:  # the reason is a memory address
            reason = "Pillow does not recognise its format"
        raise UnreadableImage(f"{name} cannot be read ({reason}).") from error


def decode(source: Any, upright: bool = False, stretch: bool = False) -> Image.Image:
    """Decodes an image given as a path or an open file, and converts it to RGB; see `to_rgb`."""
    with Image.open(source) as image:
        deep = has_sixteen_bits(image)
        image.load()
        return to_rgb(image, upright, stretch and deep)


def has_sixteen_bits(image: Image.Image) -> bool:
    """Whether an image that has been opened but not loaded has 16 or more bits per channel."""
    tiles = getattr(image, "tile", None)  # missing for images created in memory
    args = tiles[0].args if tiles else ""
    raw = args if isinstance(args, str) else (args or ("",))[0]  # for example RGB;16B
    return image.mode.startswith("I") or ";16" in str(raw)


def to_rgb(image: Image.Image, upright: bool = False, stretch: bool = False) -> Image.Image:
    """Converts greyscale (8 or 16 bits), palette, CMYK and other modes to RGB; drops transparency, as in the reference.

    `stretch` maps the image's maximum, instead of the largest 16-bit value, to white. Pillow keeps only the upper 8 of
    16 bits in colour images, so stretched colour images have few distinct values. Raises `UnreadableImage` for
    floating-point images, whose scale is unknown.
    """
    if upright:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise UnreadableImage("a floating-point image has no defined scale; convert it to 8 bits.")
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        # Pillow would clip 16-bit values at 255 instead of scaling them.
        values = np.asarray(image).astype(np.float64)
        values *= 255.0 / (max(1.0, values.max()) if stretch else 65535.0)
        return Image.fromarray(np.clip(values, 0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode == "La":  # premultiplied alpha; Pillow can convert it only via LA
        image = image.convert("LA")
    image = image if image.mode == "RGB" else image.convert("RGB")
    if stretch and (most := brightest(image)):
        image = image.point([min(255, round(v * 255 / most)) for v in range(256)] * 3)
    return image


def brightest(image: Image.Image) -> int:
    """Returns the largest value in any channel of an RGB image."""
    return max(high for _, high in image.getextrema())  # type: ignore[misc]


def from_array(array: np.ndarray) -> Image.Image:
    """Converts uint8 `[h, w]`, `[h, w, 1]`, `[h, w, 3]` or `[h, w, 4]` to RGB; else raises `UnreadableImage`."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)) or not array.size:
        wanted = "uint8 [height, width], [height, width, 3] or [height, width, 4]"
        found = f"an array of shape {array.shape} and type {array.dtype}"
        raise UnreadableImage(f"{found} is not an image; it must be {wanted}.")
    return to_rgb(Image.fromarray(array))
