"""Checks third-party files; size limits are far above any YOLOS or ViT, but far below the memory of a machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolos_jax.errors import InputError, shown

FLOATS = ("float32", "float16", "bfloat16", "float64")  # allowed dtypes of weights
MOST_BYTES = 2**32  # maximum size of a file of tensors
MOST_JSON = 2**23  # maximum size of a JSON file in bytes


def plain(name: str) -> str:
    """Escapes and shortens the name of a third-party tensor for an error message."""
    return shown(name)[1:-1]


def hollow(shape: Sequence[int]) -> np.ndarray:
    """Returns a placeholder of the given shape that uses no memory, for a tensor whose values are not needed."""
    return np.broadcast_to(np.float32(0), tuple(shape))


def check_floating(dtype: str, shape: Sequence[int], name: str, path: Path) -> None:
    """Raises `InputError` for a tensor whose `dtype` is not allowed for weights."""
    # A scalar int64 is allowed because MoCo v3 files contain BatchNorm's num_batches_tracked.
    if dtype not in FLOATS and (dtype, len(shape)) != ("int64", 0):
        raise InputError(
            f"the tensor {plain(name)} of {path} has dtype {dtype}; weights must be floats ({', '.join(FLOATS)})."
        )


def whole_number(value: Any, name: str, least: int, most: int) -> int:
    """Returns `value` if it is an int from `least` to `most`; otherwise raises `ValueError`."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is {shown(value)}; it must be a whole number between {least} and {most}")
    return value
