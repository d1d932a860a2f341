"""What a setting is, and what its value may be: type, bounds or choices, and the spelling on the command line.

Each kind has `accept(value)`, which returns the value in its plain Python type or raises `ValueError`,
`read(text)`, which turns a word of the command line into a value for `accept`, and `wanted`, which says
in words what the kind accepts.
"""

import dataclasses
import numbers
from typing import Any, Protocol

from yolos_jax.errors import InputError

MOST_CHARACTERS = 4096  # of a text, a path for instance
NO, YES = "no", "yes"
AUGMENTED = "yes, if the run augments"  # without augmentation, training resizes images as evaluation does


class Kind(Protocol):
    """What all kinds have."""

    @property
    def wanted(self) -> str:
        """What the kind accepts, as the end of the sentence "it must be ..."."""

    def accept(self, value: Any) -> Any:
        """The value in its plain Python type; `ValueError` if the kind does not accept it."""

    def read(self, text: str) -> Any:
        """A value from the command line, or the text itself if it cannot be one."""


@dataclasses.dataclass(frozen=True)
class Whole:
    """A whole number; both bounds are included."""

    low: int
    high: int

    @property
    def wanted(self) -> str:
        return f"a whole number of at least {self.low} and at most {self.high}"

    def accept(self, value: Any) -> int:
        if not _is_a(numbers.Integral, value) or not self.low <= value <= self.high:
            raise ValueError(value)
        return int(value)

    def read(self, text: str) -> Any:
        try:
            return int(text)
        except ValueError:
            return text


@dataclasses.dataclass(frozen=True)
class Real:
    """A finite number; both bounds are included. `noun` says what it is in a sentence."""

    low: float
    high: float
    noun: str = "a number"

    @property
    def wanted(self) -> str:
        return f"{self.noun} of at least {self.low:g} and at most {self.high:.7g}"

    def accept(self, value: Any) -> float:
        # NaN compares false with everything.
        if not _is_a(numbers.Real, value) or not self.low <= value <= self.high:
            raise ValueError(value)
        return value if type(value) is int else float(value)

    def read(self, text: str) -> Any:
        number = Whole(0, 0).read(text)
        try:
            return number if isinstance(number, int) else float(text)
        except ValueError:
            return text


@dataclasses.dataclass(frozen=True)
class Wholes:
    """A tuple of whole numbers, each with both bounds included; so is its length."""

    low: int
    high: int
    shortest: int
    longest: int

    @property
    def wanted(self) -> str:
        count = f"{self.shortest}" if self.shortest == self.longest else f"{self.shortest} to {self.longest}"
        example = ", ".join(str(max(self.low, 480)) for _ in range(max(self.shortest, 2)))
        return f"a tuple of {count} whole numbers of at least {self.low} and at most {self.high}, such as ({example})"

    def accept(self, value: Any) -> tuple[int, ...]:
        if not isinstance(value, tuple | list) or not self.shortest <= len(value) <= self.longest:
            raise ValueError(value)
        return tuple(Whole(self.low, self.high).accept(item) for item in value)

    def read(self, text: str) -> Any:
        inner = text.strip()
        if inner[:1] + inner[-1:] in ("()", "[]"):
            inner = inner[1:-1].strip()
        items = inner.removesuffix(",").split(",") if inner else []
        found = [Whole(0, 0).read(item) for item in items]
        return tuple(found) if all(isinstance(item, int) for item in found) else text


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a few words."""

    options: tuple[str, ...]

    @property
    def wanted(self) -> str:
        return f"one of {', '.join(self.options)}"

    def accept(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.options:
            raise ValueError(value)
        return str(value)

    def read(self, text: str) -> Any:
        return text


@dataclasses.dataclass(frozen=True)
class Text:
    """A text of one line, such as a path."""

    wanted: str = f"a text of one line and at most {MOST_CHARACTERS} characters"

    def accept(self, value: Any) -> str:
        if not isinstance(value, str) or len(value) > MOST_CHARACTERS:
            raise ValueError(value)
        if "\0" in value or value.splitlines() not in ([], [value]):
            raise ValueError(value)
        value.encode()  # raises UnicodeEncodeError, a ValueError, for half characters, which no file could hold
        return str(value)

    def read(self, text: str) -> Any:
        return text


@dataclasses.dataclass(frozen=True)
class Flag:
    """True or False."""

    wanted: str = "True or False"

    def accept(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError(value)
        return value

    def read(self, text: str) -> Any:
        return {"true": True, "false": False}.get(text.lower(), text)


@dataclasses.dataclass(frozen=True)
class Optional:
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
    """One setting.

    Attributes:
      default: the value of a recipe that says nothing.
      meaning: a phrase for `--help` and the documentation.
      kind: type, and bounds or choices.
      resume: whether it may change when a run resumes: `NO`, `YES` or `AUGMENTED`.
      host: whether it may differ between the processes of a run.
      former: the key that it had in earlier versions, which is still accepted.
    """

    default: Any
    meaning: str
    kind: Kind
    resume: str = NO
    host: bool = False
    former: str = ""

    def check(self, key: str, value: Any) -> Any:
        """The value in its plain Python type; `InputError` that names `key` if this setting does not accept it."""
        try:
            return self.kind.accept(value)
        except Exception as error:  # comparing an object of the user's with a bound may raise anything
            must = "choose" if isinstance(self.kind, Choice) else "it must be"
            raise InputError(f"{key} is {shown(value)}; {must} {self.kind.wanted}.") from error


def _is_a(kind: type, value: Any) -> bool:
    """Whether a value is a number of a kind; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """A value for a sentence: on one line, and not long."""
    if isinstance(value, str | bytes):
        value = value[:100]
    try:
        text = repr(value)
    except Exception:  # a number with too many digits, a list within itself, an object of the user's
        return f"a value of type {type(value).__name__} that cannot be printed"
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:97]}..."
