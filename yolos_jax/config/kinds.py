"""What a setting is, and what its value may be: type, bounds or choices, and the spelling on the command line."""

import ast
import contextlib
import dataclasses
import numbers
import os
from typing import Any, Protocol

from yolos_jax.errors import InputError, shown

MOST_CHARACTERS = 4096  # of a text, a path for instance
NO, YES = "no", "yes"
NEVER = "never"  # not even if differences are accepted: what the optimizer keeps would not fit
AUGMENTED = "yes, if the run augments"  # without augmentation, training resizes images as evaluation does


class Kind(Protocol):
    """What values a setting may have."""

    @property
    def wanted(self) -> str:
        """What the kind accepts, as the end of the sentence "it must be ..."."""

    def accept(self, value: Any) -> Any:
        """The value in its plain Python type; `ValueError` if the kind does not accept it."""

    def read(self, text: str) -> Any:
        """A value from a word of the command line, for `accept`; the text itself if it cannot be one."""
        return text


@dataclasses.dataclass(frozen=True)
class Real(Kind):
    """A finite number; both bounds are included. `noun` is what errors call it."""

    low: float
    high: float
    noun: str = "a number"

    @property
    def wanted(self) -> str:
        low, high = (bound if isinstance(bound, int) else f"{bound:.7g}" for bound in (self.low, self.high))
        return f"{self.noun} of at least {low} and at most {high}"

    def accept(self, value: Any) -> Any:
        _require(isinstance(value, numbers.Real) and not isinstance(value, bool))
        _require(self.low <= value <= self.high)  # NaN compares false with everything
        return int(value) if isinstance(value, numbers.Integral) else float(value)

    def read(self, text: str) -> Any:
        for number in (int, float):
            with contextlib.suppress(ValueError):
                return number(text)
        return text


@dataclasses.dataclass(frozen=True)
class Whole(Real):
    """A whole number; both bounds are included."""

    noun: str = "a whole number"

    def accept(self, value: Any) -> int:
        _require(isinstance(value, numbers.Integral))
        return super().accept(value)


@dataclasses.dataclass(frozen=True)
class Wholes(Kind):
    """A tuple of whole numbers, each with both bounds included; so is its length."""

    low: int
    high: int
    shortest: int
    longest: int

    @property
    def wanted(self) -> str:
        count = f"{self.shortest}" if self.shortest == self.longest else f"{self.shortest} to {self.longest}"
        example = ", ".join([str(max(self.low, 480))] * max(self.shortest, 2))
        return f"a tuple of {count} whole numbers of at least {self.low} and at most {self.high}, such as ({example})"

    def accept(self, value: Any) -> tuple[int, ...]:
        _require(isinstance(value, tuple | list) and self.shortest <= len(value) <= self.longest)
        return tuple(Whole(self.low, self.high).accept(item) for item in value)

    def read(self, text: str) -> Any:
        inner = text.strip()
        if inner[:1] + inner[-1:] in ("()", "[]"):
            inner = inner[1:-1].strip()
        try:
            return tuple(int(item) for item in inner.removesuffix(",").split(",")) if inner else ()
        except ValueError:
            return text


@dataclasses.dataclass(frozen=True)
class Choice(Kind):
    """One of a few words."""

    options: tuple[str, ...]

    @property
    def wanted(self) -> str:
        return f"one of {', '.join(self.options)}"

    def accept(self, value: Any) -> str:
        _require(isinstance(value, str) and value in self.options)
        return str(value)


class Text(Kind):
    """A text of one line, such as a path."""

    wanted = f"a text of one line and at most {MOST_CHARACTERS} characters"

    def accept(self, value: Any) -> str:
        _require(isinstance(value, str) and len(value) <= MOST_CHARACTERS)
        _require("\0" not in value and value.splitlines() in ([], [value]))
        value.encode()  # raises UnicodeEncodeError, a ValueError, for half characters, which no file could hold
        return str(value)


class Place(Text):
    """A path; `~` at its start is the user's home folder."""

    def accept(self, value: Any) -> str:
        return os.path.expanduser(super().accept(value))


@dataclasses.dataclass(frozen=True)
class Texts(Kind):
    """A tuple of texts of one line."""

    longest: int

    @property
    def wanted(self) -> str:
        return f"a tuple of at most {self.longest} texts of one line, such as ('a', 'b')"

    def accept(self, value: Any) -> tuple[str, ...]:
        _require(isinstance(value, tuple | list) and len(value) <= self.longest)
        return tuple(Text().accept(item) for item in value)

    def read(self, text: str) -> Any:
        inner = text.strip()
        if inner[:1] in ("(", "["):
            with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                return ast.literal_eval(inner)  # as Python writes it; `[a-c]*` is no list of Python's
        if inner[:1] + inner[-1:] == "()":
            inner = inner[1:-1]
        return tuple(item.strip() for item in inner.removesuffix(",").split(",")) if inner.strip() else ()


class Flag(Kind):
    """True or False."""

    wanted = "True or False"

    def accept(self, value: Any) -> bool:
        _require(isinstance(value, bool))
        return value

    def read(self, text: str) -> Any:
        return {"true": True, "false": False}.get(text.lower(), text)


@dataclasses.dataclass(frozen=True)
class Optional(Kind):
    """Another kind, or None."""

    kind: Kind

    @property
    def wanted(self) -> str:
        return f"{self.kind.wanted}, or None"

    def accept(self, value: Any) -> Any:
        return None if value is None else self.kind.accept(value)

    def read(self, text: str) -> Any:
        return None if text.strip().lower() == "none" else self.kind.read(text)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting."""

    default: Any  # the value of a recipe that says nothing
    meaning: str  # a phrase for `--help` and the documentation
    kind: Kind
    resume: str = NO  # whether it may change when a run resumes: `NO`, `YES`, `NEVER` or `AUGMENTED`
    host: bool = False  # whether it may differ between the processes of a run
    former: str = ""  # the key that it had in earlier versions, which is still accepted

    def check(self, key: str, value: Any) -> Any:
        """The value in its plain Python type; `InputError` that names `key` if this setting does not accept it."""
        try:
            return self.kind.accept(value)
        except Exception as error:  # comparing an object of the user's with a bound may raise anything
            must = "choose" if isinstance(self.kind, Choice) else "it must be"
            raise InputError(f"{key} is {shown(value)}; {must} {self.kind.wanted}.") from error


def _require(accepted: bool) -> None:
    if not accepted:
        raise ValueError
