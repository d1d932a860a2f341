"""Reads and writes transformers' `preprocessor_config.json`: image sizes and normalisation."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from yolos_jax.errors import InputError, shown
from yolos_jax.images.sequence import default_max_side
from yolos_jax.weights.limits import whole_number

SHORT_SIDE = 800  # pixels; used in the reference's evaluation and by default in transformers
_LONG_SIDE = 1333  # transformers' default for the maximum long side
_MOST_PIXELS = 2**14  # maximum length of a side
_BILINEAR, _BICUBIC = 2, 3  # Pillow's constants
# The model normalises on the device with ImageNet's statistics, which are also transformers' defaults.
MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]
SCALE = 1 / 255
_STEPS = ("do_resize", "do_rescale", "do_normalize")
_NORMALISATION = {"rescale_factor": SCALE, "image_mean": MEAN, "image_std": STD}


class Sizes(NamedTuple):
    """Length in pixels that the short side of an image is resized to, and maximum length of the long side."""

    short_side: int
    max_side: int


def read_processor(values: Mapping[str, Any], what: str) -> Sizes:
    """Returns the sizes in a `preprocessor_config.json`; raises `InputError` for unsupported preprocessing."""
    try:
        _check_steps(values)
        return _read_sizes(values.get("size"), values.get("max_size"))
    except (ValueError, OverflowError) as error:  # OverflowError: an integer too large for a float
        remedy = "if this is a mistake, fix or remove the file in a copy of the folder"
        raise InputError(f"{what} has unsupported preprocessing ({error}); {remedy}.") from error


def write_processor(sizes: Sizes) -> dict[str, Any]:
    """Returns the `preprocessor_config.json` for transformers' `YolosImageProcessor`."""
    return {
        "image_processor_type": "YolosImageProcessor",
        "format": "coco_detection",
        **dict.fromkeys((*_STEPS, "do_convert_annotations", "do_pad"), True),
        "size": {"shortest_edge": sizes.short_side, "longest_edge": sizes.max_side},
        "resample": _BILINEAR,
        **_NORMALISATION,
    }


def write_classifier_processor(image_size: int, crop_share: float) -> dict[str, Any]:
    """Like `write_processor`, but for a classifier: the centre crop covers `crop_share` of the resized short side."""
    return {
        "image_processor_type": "BitImageProcessor",
        **dict.fromkeys((*_STEPS, "do_center_crop", "do_convert_rgb"), True),
        "size": {"shortest_edge": max(image_size, math.floor(image_size / crop_share))},
        "crop_size": {"height": image_size, "width": image_size},
        "resample": _BICUBIC,
        **_NORMALISATION,
    }


def sizes_of(extra: Mapping[str, Any]) -> Sizes | None:
    """Returns the sizes in a checkpoint (`Meta.extra`): those of its image processor, or else of its recipe."""
    found = extra.get("processor") or extra.get("config", {}).get("data")
    if not isinstance(found, Mapping) or "short_side" not in found:
        return None
    short = found["short_side"]
    return Sizes(short, found.get("max_side") or default_max_side(short))


def _check_steps(values: Mapping[str, Any]) -> None:
    """Raises `ValueError` for preprocessing steps that differ from those of yolos-jax."""
    for name in _STEPS:
        if values.get(name, True) is not True:
            raise ValueError(f"{name} is {shown(values[name])}, but this step is always applied")
    for name, wanted in (("image_mean", MEAN), ("image_std", STD)):
        if not close(values.get(name, wanted), wanted):
            raise ValueError(f"{name} is {shown(values[name])}, but the model normalises with {wanted}")
    if not close([values.get("rescale_factor", SCALE)], [SCALE]):
        raise ValueError(f"rescale_factor is {shown(values['rescale_factor'])}, but pixels are divided by 255")
    if values.get("resample", _BILINEAR) != _BILINEAR:
        raise ValueError(f"resample is {shown(values['resample'])}, but images are resized with 2 (bilinear)")


def _read_sizes(size: Any, max_size: Any) -> Sizes:
    """Returns the sizes from the entries `size` and `max_size`; raises `ValueError` if they are not supported."""
    if size is None:
        return Sizes(SHORT_SIDE, _LONG_SIDE)
    if type(size) is int:  # format before 2023
        size = {"shortest_edge": size, "longest_edge": _LONG_SIDE if max_size is None else max_size}
    if isinstance(size, Mapping) and {"max_height", "max_width"} <= size.keys():
        height, width = (whole_number(size[name], name, 1, _MOST_PIXELS) for name in ("max_height", "max_width"))
        if height != width:
            raise ValueError(f"size is {shown(size)}, but max_height and max_width must be equal")
        return Sizes(height, height)  # the long side of images is resized to this length
    if not isinstance(size, Mapping) or not {"shortest_edge", "longest_edge"} <= size.keys():
        raise ValueError(f"size is {shown(size)}, but aspect ratios are kept: use shortest_edge and longest_edge")
    short, long = (whole_number(size[name], name, 1, _MOST_PIXELS) for name in ("shortest_edge", "longest_edge"))
    return Sizes(short, long)


def close(found: Any, wanted: list[float]) -> bool:
    """Whether a list of values from a file equals the wanted values up to rounding."""
    if not isinstance(found, list) or not all(type(value) in (int, float) for value in found):
        return False
    return len(found) == len(wanted) and all(math.isclose(v, w, rel_tol=1e-4) for v, w in zip(found, wanted))
