"""How much foreign files may claim: far more than any YOLOS or ViT needs, far less than exhausts a machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolos_jax.errors import InputError, shown

FLOATS = ("float32", "float16", "bfloat16", "float64")  # what weights may be stored as
MOST_BYTES = 2**32  # of a file of tensors
MOST_JSON = 2**23  # bytes of a JSON file


def plain(name: str) -> str:
    """A foreign tensor's name for an error sentence, escaped where it is odd and cut where it is long."""
    return shown(name)[1:-1]


def hollow(shape: Sequence[int]) -> np.ndarray:
    """An array that has a shape and takes no memory, in place of a tensor whose numbers are not wanted."""
    return np.broadcast_to(np.float32(0), tuple(shape))


def check_floating(dtype: str, shape: Sequence[int], name: str, path: Path) -> None:
    """`InputError` for a tensor whose dtype, given by its name, is not one that weights have."""
    # A single int64 passes: it is BatchNorm's count of batches, which MoCo v3 has beside the backbone.
    if dtype not in FLOATS and (dtype, len(shape)) != ("int64", 0):
        raise InputError(
            f"the tensor {plain(name)} of {path} has dtype {dtype}; weights are floating point ({', '.join(FLOATS)})."
        )


def whole_number(value: Any, name: str, least: int, most: int) -> int:
    """`value` if it is an int of `least` to `most`; `ValueError` otherwise."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is {shown(value)}; it must be a whole number of {least} to {most}")
    return value
