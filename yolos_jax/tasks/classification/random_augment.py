"""RandAugment's operations (arXiv 1909.13719) on RGB images, in timm's "increasing" variant, which DeiT uses.

The strength of an operation is magnitude / 10, from 0 to 1; a larger strength changes the image more. Some operations
also have a direction, which `negative` reverses. The results match timm pixel for pixel.
"""

from collections.abc import Callable

from PIL import Image, ImageEnhance, ImageOps

MOST = 10.0  # maximum magnitude
FILL = (124, 116, 104)  # ImageNet's mean colour, which fills areas outside the image
_BICUBIC = Image.Resampling.BICUBIC
Operation = Callable[[Image.Image, float], Image.Image]  # a negative strength reverses the operation


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=_BICUBIC, fillcolor=FILL)


def _rotate(image: Image.Image, strength: float) -> Image.Image:
    return image.rotate(30.0 * strength, resample=_BICUBIC, fillcolor=FILL)


def _shear_x(image: Image.Image, strength: float) -> Image.Image:
    return _affine(image, 1, 0.3 * strength, 0, 0, 1, 0)


def _shear_y(image: Image.Image, strength: float) -> Image.Image:
    return _affine(image, 1, 0, 0, 0.3 * strength, 1, 0)


def _translate_x(image: Image.Image, strength: float) -> Image.Image:
    return _affine(image, 1, 0, 0.45 * strength * image.width, 0, 1, 0)


def _translate_y(image: Image.Image, strength: float) -> Image.Image:
    return _affine(image, 1, 0, 0, 0, 1, 0.45 * strength * image.height)


def _posterize(image: Image.Image, strength: float) -> Image.Image:
    return ImageOps.posterize(image, max(1, 4 - int(4 * abs(strength))))  # Pillow rejects 0 bits (a black image)


def _solarize(image: Image.Image, strength: float) -> Image.Image:
    return ImageOps.solarize(image, 256 - int(256 * abs(strength)))


def _solarize_add(image: Image.Image, strength: float) -> Image.Image:
    more = int(110 * abs(strength))
    return image.point([min(255, value + more) if value < 128 else value for value in range(256)] * 3)


def _enhanced(by: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    """Creates an operation that increases or decreases a property with a Pillow enhancer."""

    def enhance(image: Image.Image, strength: float) -> Image.Image:
        return by(image).enhance(max(0.1, 1.0 + 0.9 * strength))

    return enhance


OPERATIONS: dict[str, Operation] = {
    "autocontrast": lambda image, strength: ImageOps.autocontrast(image),
    "equalize": lambda image, strength: ImageOps.equalize(image),
    "invert": lambda image, strength: ImageOps.invert(image),
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "color": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
NAMES = tuple(OPERATIONS)


def operate(image: Image.Image, which: int, strength: float, negative: bool) -> Image.Image:
    """Applies the operation `NAMES[which]` to an RGB image, with a strength from 0 to 1."""
    return OPERATIONS[NAMES[which]](image, -strength if negative else strength)
