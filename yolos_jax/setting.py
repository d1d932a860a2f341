"""What a declared setting is. The dataclass that owns a setting declares it, once:

    width: int = setting(192, "embedding width, a multiple of heads", low=1, high=8192)

The field's annotation is the setting's type: int, float, bool, str, a tuple of ints or of strs, or one of these or
None. `config` reads recipes and command lines by what is declared here.
"""

import dataclasses
from typing import Any

NO, YES = "no", "yes"
NEVER = "never"  # not even if differences are accepted: the optimizer's state would not fit
AUGMENTED = "yes, if the run augments"  # without augmentation, training resizes images as evaluation does
KEY = "setting"  # of a field's metadata


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is declared of a setting, besides its name, its type and its default."""

    meaning: str  # a phrase for `--help` and the documentation
    low: float = 0  # bounds of a number, or of each number of a tuple; both are included
    high: float = 0
    noun: str = ""  # what errors call a number: "a probability"
    choices: tuple[str, ...] = ()  # the words that a text may be; () for any
    lengths: tuple[int, int] = (0, 0)  # least and most items of a tuple
    path: bool = False  # a text that is a path: `~` at its start is the user's home folder
    address: bool = False  # whether the path may also be an address such as gs://bucket/run
    resume: str = NO  # whether it may change when a run resumes
    host: bool = False  # whether it may differ between the processes of a run
    also: tuple[str, ...] = ()  # what other packages call it


def setting(default: Any, meaning: str, **declared: Any) -> Any:
    """A field of a dataclass that is a setting: `default`, `meaning`, and what else is `declared` of a `Setting`."""
    return dataclasses.field(default=default, metadata={KEY: Setting(meaning, **declared)})


def redeclared(owner: type, name: str, default: Any) -> Any:
    """The setting `name` of another dataclass, with a default of its own."""
    (field,) = [field for field in dataclasses.fields(owner) if field.name == name]
    return dataclasses.field(default=default, metadata=field.metadata)


def part(values: Any, owner: type) -> Any:
    """An `owner` whose settings are those of `values`, a dataclass that has them all."""
    names = [field.name for field in dataclasses.fields(owner) if KEY in field.metadata]
    return owner(**{name: getattr(values, name) for name in names})
