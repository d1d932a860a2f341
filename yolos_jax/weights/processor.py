"""`preprocessor_config.json`: how images become pixels and of what size, for transformers."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from yolos_jax.errors import InputError, shown
from yolos_jax.images.sequence import default_max_side
from yolos_jax.weights.limits import whole_number

SHORT_SIDE = 800  # what the reference evaluates at, and transformers' default
_MAX_SIDE = 1333  # transformers' default where a file has none
_MOST_SIDE = 2**14  # pixels
_BILINEAR = 2  # Pillow's number
# The model normalises on the device, as ImageNet's classifiers do. Also transformers' defaults.
MEAN, STD, SCALE = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 1 / 255
_SWITCHES = ("do_resize", "do_rescale", "do_normalize")


class Sizes(NamedTuple):
    """Pixels that an image's short side is resized to, and most pixels of the long one."""

    short_side: int
    max_side: int


def read_processor(values: Mapping[str, Any], what: str) -> Sizes:
    """The sizes in a `preprocessor_config.json` of any age; `InputError` if it asks for what we do not do."""
    try:
        for name, honoured, ours in (
            *((name, lambda value: value is True, "it is always done here") for name in _SWITCHES),
            ("image_mean", lambda value: _close(value, MEAN), f"the model normalises with {MEAN}"),
            ("image_std", lambda value: _close(value, STD), f"the model normalises with {STD}"),
            ("rescale_factor", lambda value: _close([value], [SCALE]), "pixels are divided by 255 here"),
            ("resample", lambda value: value == _BILINEAR, "images are resized with 2 (bilinear) here"),
        ):
            if name in values and not honoured(values[name]):
                raise ValueError(f"{name} is {shown(values[name])}, and {ours}")
        return _sizes(values.get("size"), values.get("max_size"))
    except (ValueError, OverflowError) as error:  # the second of whole numbers that no float can hold
        raise InputError(
            f"{what} asks for what is not done here ({error}); if that is a mistake, repair or remove the file in a "
            "copy of the folder."
        ) from error


def write_processor(sizes: Sizes) -> dict[str, Any]:
    """The `preprocessor_config.json` for transformers' `YolosImageProcessor`."""
    return dict.fromkeys((*_SWITCHES, "do_convert_annotations", "do_pad"), True) | {
        "image_processor_type": "YolosImageProcessor",
        "format": "coco_detection",
        "size": {"shortest_edge": sizes.short_side, "longest_edge": sizes.max_side},
        "resample": _BILINEAR,
        "rescale_factor": SCALE,
        "image_mean": MEAN,
        "image_std": STD,
    }


def sizes_of(extra: Mapping[str, Any]) -> Sizes | None:
    """The sizes that a checkpoint remembers (`Meta.extra`): a processor's it was converted with, or its run's."""
    found = extra.get("processor") or extra.get("config", {}).get("data")
    if not isinstance(found, Mapping) or "short_side" not in found:
        return None
    short = found["short_side"]
    return Sizes(short, found.get("max_side") or default_max_side(short))


def _sizes(size: Any, max_size: Any) -> Sizes:
    if size is None:
        size = {"shortest_edge": SHORT_SIDE, "longest_edge": _MAX_SIDE}
    if type(size) is int:  # before 2023
        size = {"shortest_edge": size, "longest_edge": _MAX_SIDE if max_size is None else max_size}
    if isinstance(size, Mapping) and {"max_height", "max_width"} <= size.keys():
        most = [whole_number(size[name], name, 1, _MOST_SIDE) for name in ("max_height", "max_width")]
        if most[0] != most[1]:
            raise ValueError(f"size is {shown(size)}, and one bound holds for both sides here")
        return Sizes(most[0], most[0])  # the long side decides: enlarged or reduced until it is that long
    if not isinstance(size, Mapping) or not {"shortest_edge", "longest_edge"} <= size.keys():
        raise ValueError(f"size is {shown(size)}, and images keep their aspect: shortest_edge and longest_edge")
    short = whole_number(size["shortest_edge"], "shortest_edge", 1, _MOST_SIDE)
    return Sizes(short, whole_number(size["longest_edge"], "longest_edge", 1, _MOST_SIDE))


def _close(found: Any, wanted: list[float]) -> bool:
    """Whether a list holds the same numbers, up to what is lost in writing them."""
    if not isinstance(found, list) or not all(type(value) in (int, float) for value in found):
        return False
    return len(found) == len(wanted) and all(math.isclose(v, w, rel_tol=1e-4) for v, w in zip(found, wanted))
