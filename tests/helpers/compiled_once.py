"""Compiles each program for training, evaluation or prediction once and shares it among all runs that use it."""

import contextlib
import dataclasses
import functools
import types
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import pytest

JIT = jax.jit  # the original function, even inside nested calls of `compiled_once`
STEP, EVALUATION = "make_step.<locals>.step", "ImagePass.__init__.<locals>.indexed"
PROGRAMS = {STEP, EVALUATION, "detect"}


class Only:
    """A key that is equal only to keys of the same object. It keeps the object alive, so that its id is not reused."""

    def __init__(self, what: Any):
        self.what = what

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Only) and self.what is other.what

    def __hash__(self) -> int:
        return id(self.what)


def key_of(x: Any, around: tuple = ()) -> Hashable:
    """A key that is equal for two functions only if they have the same code and the same closure.

    Objects of unknown types are equal only to themselves, so at worst a program is compiled unnecessarily. Globals that
    functions read are not compared: a test that replaces one needs a separate `compiled_once`.
    """
    mark = ("method", id(x.__func__)) if isinstance(x, types.MethodType) else id(x)  # each access creates a new method
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
    if isinstance(x, float):  # 0.0 == -0.0, but the programs differ
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
    return type(x), x  # compared like static arguments of `jax.jit`


def contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the cell is empty, because the enclosing function has not yet assigned the variable
        return types.CellType


@contextlib.contextmanager
def compiled_once() -> Iterator[dict]:
    """Within this context, later runs reuse the compiled programs of earlier runs.

    Yields a dict of the programs, keyed by (name, key). The key does not include the arguments' shapes, dtypes and
    devices, because jax compiles a program again if they change.
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
