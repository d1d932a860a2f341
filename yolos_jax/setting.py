"""Declares settings. The dataclass that owns a setting declares it, once:

    width: int = setting(192, "embedding width, a multiple of heads", low=1, high=8192)

The field's annotation is the setting's type: int, float, bool, str, a tuple of ints or of strs, each optionally with
None. `config` reads recipes and command lines according to these declarations.
"""

import dataclasses
from typing import Any

NO, YES = "no", "yes"
NEVER = "never"  # not even with accepted differences: the optimizer's state would not fit
AUGMENTED = "yes, if the run augments"  # without augmentation, training resizes images as evaluation does
KEY = "setting"  # in a field's metadata


@dataclasses.dataclass(frozen=True)
class Setting:
    """The declaration of a setting, besides its name, type and default."""

    meaning: str  # a phrase for `--help` and the documentation
    low: float = 0  # bounds of a number, or of each number in a tuple, inclusive
    high: float = 0
    noun: str = ""  # name of a number in errors: "a probability"
    choices: tuple[str, ...] = ()  # allowed words; () for any text
    lengths: tuple[int, int] = (0, 0)  # minimum and maximum number of items in a tuple
    path: bool = False  # a path: a leading `~` is the user's home folder
    address: bool = False  # whether the path may also be an address such as gs://bucket/run
    resume: str = NO  # whether it may change when a run resumes
    host: bool = False  # whether it may differ between the processes of a run
    also: tuple[str, ...] = ()  # its names in other packages


def setting(default: Any, meaning: str, **declared: Any) -> Any:
    """A dataclass field with a `default` that is a setting with this `meaning`; `declared` are fields of `Setting`."""
    return dataclasses.field(default=default, metadata={KEY: Setting(meaning, **declared)})


def redeclared(owner: type, name: str, default: Any) -> Any:
    """The setting `name` of another dataclass, with a different default."""
    (field,) = [field for field in dataclasses.fields(owner) if field.name == name]
    return dataclasses.field(default=default, metadata=field.metadata)


def part(values: Any, owner: type) -> Any:
    """An `owner` with its settings taken from `values`, a dataclass that has them all."""
    names = [field.name for field in dataclasses.fields(owner) if KEY in field.metadata]
    return owner(**{name: getattr(values, name) for name in names})
