"""Compiles each program of training, evaluation and prediction once for all runs that need it."""

import contextlib
import dataclasses
import functools
import types
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import pytest

JIT = jax.jit  # also if one `compiled_once` is inside another
STEP, EVALUATION = "make_step.<locals>.step", "ImagePass.__init__.<locals>.indexed"
PROGRAMS = {STEP, EVALUATION, "detect"}


class Only:
    """Equal only to itself; keeps its object alive, so that no other object gets the same id."""

    def __init__(self, what: Any):
        self.what = what

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Only) and self.what is other.what

    def __hash__(self) -> int:
        return id(self.what)


def key_of(x: Any, around: tuple = ()) -> Hashable:
    """Equal for two functions only if they compute the same: same code and same closure.

    Unknown objects are equal only to themselves, so at worst a program is compiled again. Globals that functions read
    are not compared: a test that replaces one needs its own `compiled_once`.
    """
    mark = ("method", id(x.__func__)) if isinstance(x, types.MethodType) else id(x)  # new on each access
    if mark in around:
        return "again", around.index(mark)
    key = functools.partial(key_of, around=(*around, mark))
    if isinstance(x, types.FunctionType):
        cells = map(contents, x.__closure__ or ())
        return (x.__module__, x.__code__, key(x.__defaults__), key(x.__kwdefaults__), *map(key, cells))
    if isinstance(x, types.MethodType):
        used = [name for name in x.__func__.__code__.co_names if hasattr(x.__self__, name)]
        return ("method", key(x.__func__), *(key(getattr(x.__self__, name)) for name in used))
    if isinstance(x, functools.partial):
        return "partial", key(x.func), key(x.args), key(x.keywords)
    if isinstance(x, np.ndarray | np.generic | jax.Array):
        value = np.asarray(x)
        return type(x), value.shape, str(value.dtype), value.tobytes()
    if isinstance(x, float):  # some equal values differ: 0 and -0
        return float, x.hex()
    if isinstance(x, Mapping):
        return (type(x), *((key(name), key(value)) for name, value in x.items()))
    if isinstance(x, tuple | list):
        return (type(x), *map(key, x))
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return (type(x), *(key(getattr(x, field.name)) for field in dataclasses.fields(x)))
    try:
        hash(x)
    except TypeError:
        return Only(x)
    return type(x), x  # as in jax's static arguments


def contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # of a function whose definition is incomplete
        return types.CellType


@contextlib.contextmanager
def compiled_once() -> Iterator[dict]:
    """Inside, later runs reuse the programs of earlier runs.

    Yields the programs by (name, key). The key needs no shapes, dtypes and devices of arguments: jax compiles a program
    again for others.
    """
    kept = {}

    def shared(*function, **options):
        name = getattr(getattr(function[0], "func", function[0]), "__qualname__", "") if function else ""
        if name not in PROGRAMS:
            return JIT(*function, **options)
        key = name, key_of((function, options))
        if key not in kept:
            kept[key] = JIT(*function, **options)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", shared)
        yield kept
