"""Compiles what training, evaluation and prediction run once for all runs that need the same program."""

import contextlib
import dataclasses
import functools
import types
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import pytest

JIT = jax.jit  # also where one `compiled_once` is within another
STEP, EVALUATION = "make_step.<locals>.step", "ImagePass.__init__.<locals>.indexed"
PROGRAMS = {STEP, EVALUATION, "detect"}


class Only:
    """Equal to nothing but itself; keeps what it stands for alive, so that no other object gets its place."""

    def __init__(self, what: Any):
        self.what = what

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Only) and self.what is other.what

    def __hash__(self) -> int:
        return id(self.what)


def key_of(x: Any, around: tuple = ()) -> Hashable:
    """Equal for two things only if they compute the same: by code and by all that it closes over.

    What is not understood is equal to nothing but itself, so at worst a program is compiled again. What functions
    read from their modules is not looked at: whoever replaces that needs a `compiled_once` of its own.
    """
    mark = ("method", id(x.__func__)) if isinstance(x, types.MethodType) else id(x)  # a method is made anew each time
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
    if isinstance(x, float):  # of which some differ that are equal: 0 and -0
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
    return type(x), x  # as jax itself takes it for a static argument


def contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # of a function that is not wholly defined yet
        return types.CellType


@contextlib.contextmanager
def compiled_once() -> Iterator[dict]:
    """Inside, a program that a run made serves every later run that would make the same.

    Yields the programs by (name, key) as they come. Shapes, dtypes and places of arguments need no part in the key:
    jax compiles a program anew for others.
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
