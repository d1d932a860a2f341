"""Declares settings. Each one is declared once, in the dataclass that owns it:

    width: int = setting(192, "embedding width, a multiple of heads", low=1, high=8192)

The annotation of the field is the setting's type: int, float, bool, str, or a tuple of int, float or str, optionally in
a union with None or str. `config` reads recipes and command lines according to these declarations.
"""

import dataclasses
from typing import Any

NO, YES = "no", "yes"
NEVER = "never"  # not even with --accept_differences, because the optimizer state would not match
AUGMENTED = "with augmentation"  # without augmentation, training resizes images as evaluation does
KEY = "setting"  # key in a field's metadata


@dataclasses.dataclass(frozen=True)
class Setting:
    """The declaration of a setting, apart from its name, type and default."""

    meaning: str  # a phrase for `--help` and the documentation
    low: float = 0  # bounds of a number, or of each number in a tuple, inclusive
    high: float = 0
    noun: str = ""  # what errors call a number, such as "a probability"
    choices: tuple[str, ...] = ()  # allowed strings; () for any string
    lengths: tuple[int, int] = (0, 0)  # minimum and maximum number of items in a tuple
    path: bool = False  # a path: a leading `~` is the user's home folder
    address: bool = False  # whether the path may also be an address such as gs://bucket/run
    resume: str = NO  # whether it may change when a run resumes
    host: bool = False  # whether it may differ between the processes of a run
    also: tuple[str, ...] = ()  # names of the setting in other packages


def setting(default: Any, meaning: str, **declared: Any) -> Any:
    """Declares a dataclass field as a setting with a `default` and a `meaning`; `declared` are fields of `Setting`."""
    return dataclasses.field(default=default, metadata={KEY: Setting(meaning, **declared)})


def redeclared(owner: type, name: str, default: Any) -> Any:
    """Redeclares the setting `name` of another dataclass with a different default."""
    (field,) = [field for field in dataclasses.fields(owner) if field.name == name]
    return dataclasses.field(default=default, metadata=field.metadata)


def part(values: Any, owner: type) -> Any:
    """Creates an `owner` with the values of its settings in `values`, a dataclass that has all of them."""
    names = [field.name for field in dataclasses.fields(owner) if KEY in field.metadata]
    return owner(**{name: getattr(values, name) for name in names})
