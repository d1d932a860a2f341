"""Checks values of settings and parses them from the command line, based on their declared types and bounds."""

import ast
import contextlib
import dataclasses
import numbers
import os
import types
import typing
from typing import Any

from yolos_jax.address import local_path
from yolos_jax.errors import InputError, refuse_address, shown
from yolos_jax.setting import Setting

MOST_CHARACTERS = 4096  # maximum length of a string, such as a path


@dataclasses.dataclass(frozen=True)
class Declared:
    """A setting of a recipe as declared in a dataclass: its key, type, default and properties."""

    key: str  # dotted, such as `data.root`
    type: Any  # without None
    optional: bool  # whether it may be None
    default: Any
    setting: Setting

    @classmethod
    def of(cls, key: str, field: dataclasses.Field[Any], setting: Setting) -> "Declared":
        """Reads a dataclass field. Its type may be `X | None`, or `str | tuple[...]` for a named choice or a tuple."""
        kinds = typing.get_args(field.type) if isinstance(field.type, types.UnionType) else (field.type,)
        found = next(each for each in kinds if each is not types.NoneType)
        return cls(key, found, types.NoneType in kinds, field.default, setting)

    @property
    def items(self) -> Any:
        """The type of a tuple's items; None for other types."""
        return typing.get_args(self.type)[0] if typing.get_origin(self.type) is tuple else None

    @property
    def wanted(self) -> str:
        """Describes the accepted values in a phrase that can follow "it must be"."""
        return f"{self._wanted()}, or None" if self.optional else self._wanted()

    def _wanted(self) -> str:
        how = self.setting
        words = f"one of {', '.join(how.choices)}"
        if how.choices and self.items is None:
            return words
        if how.choices and self.items is str:
            return f"any of {', '.join(how.choices)}"
        if self.type is bool:
            return "True or False"
        if self.type is str:
            return f"one line of UTF-8 text with at most {MOST_CHARACTERS} characters"
        if self.items is str:
            return f"a tuple of at most {how.lengths[1]} single-line strings, such as ('a', 'b')"
        bounds = f"from {_bound(how.low)} to {_bound(how.high)}"
        if self.items is int:
            least, most = how.lengths
            count = str(least) if least == most else f"{least} to {most}"
            example = ", ".join([str(max(how.low, 480))] * max(least, 2))
            return f"a tuple of {count} whole numbers {bounds}, such as ({example})"
        if self.items is float:
            return f"{words}, or a tuple of numbers {bounds}, such as (1, 2.5)"
        noun = how.noun or ("a whole number" if self.type is int else "a number")
        return f"{noun} {bounds}"

    def check(self, value: Any) -> Any:
        """Returns the value as a plain Python type; raises `InputError` if it is invalid."""
        if self.setting.path and isinstance(value, str):
            value = local_path(value)
            if not self.setting.address:
                refuse_address(self.key, value)
        try:
            return None if self.optional and value is None else self._accept(value)
        except Exception as error:  # comparing a user's object with a bound may raise any exception
            must = "choose" if self.setting.choices else "it must be"
            raise InputError(f"{self.key} is {shown(value)}; {must} {self.wanted}.") from error

    def _accept(self, value: Any) -> Any:
        if self.items is not None:
            if self.setting.choices and isinstance(value, str):
                if self.items is not str:
                    return _text(value, self.setting)
                value = _read_texts(value)
            least, most = self.setting.lengths
            _require(isinstance(value, tuple | list) and least <= len(value) <= most)
            return tuple(self._accept_one(self.items, item) for item in value)
        return self._accept_one(self.type, value)

    def _accept_one(self, kind: Any, value: Any) -> Any:
        if kind is bool:
            _require(isinstance(value, bool))
            return value
        if kind is str:
            return _text(value, self.setting)
        whole = isinstance(value, numbers.Integral)
        _require(type(value) is not bool and isinstance(value, numbers.Real) and (whole or kind is float))
        _require(self.setting.low <= value <= self.setting.high)  # NaN compares false with everything
        return int(value) if whole else float(value)

    def read(self, text: str) -> Any:
        """Parses a command-line argument for `check`; returns the text unchanged if that fails."""
        if self.optional and text.strip().lower() == "none":
            return None
        if self.type is bool:
            return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
        if self.items in (int, float):
            return _read_numbers(text, self.items)
        if self.items is str:
            return _read_texts(text)
        if self.type in (int, float):
            return _read_number(text)
        return text


def _bound(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.7g}"


def _require(accepted: bool) -> None:
    if not accepted:
        raise ValueError


def _text(value: Any, how: Setting) -> str:
    _require(isinstance(value, str) and len(value) <= MOST_CHARACTERS)
    _require("\0" not in value and value.splitlines() in ([], [value]))
    _require(not how.choices or value in how.choices)
    value.encode()  # raises UnicodeEncodeError, a ValueError, for lone surrogates
    return os.path.expanduser(value) if how.path else str(value)


def _read_number(text: str) -> Any:
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text


def _read_numbers(text: str, kind: type) -> Any:
    """Parses numbers separated by commas, with or without brackets."""
    inner = text.strip()
    if inner[:1] + inner[-1:] in ("()", "[]"):
        inner = inner[1:-1].strip()
    if not inner:
        return ()
    try:
        return tuple(kind(item) for item in inner.removesuffix(",").split(","))
    except ValueError:
        return text


def _read_texts(text: str) -> Any:
    """Parses strings separated by commas, with or without parentheses, or a Python list."""
    inner = text.strip()
    if inner[:1] in ("(", "["):
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return ast.literal_eval(inner)  # `[a-c]*` is not a Python list
    if inner[:1] + inner[-1:] == "()":
        inner = inner[1:-1]
    if not inner.strip():
        return ()
    return tuple(item.strip() for item in inner.removesuffix(",").split(","))
