"""Finds a split of a data set under its common names. Does not import jax."""

from collections.abc import Iterable

from yolos_jax.errors import InputError

# Common names of splits, most likely first; case is ignored.
FAMILIES = {
    "train": ("train", "train2017", "training", "trainval", "trn"),
    "val": ("val", "val2017", "valid", "validation", "dev", "eval"),
    "test": ("test", "test2017", "testing"),
}
STANDS_IN = {"val": "test"}  # replacement for a split that does not exist


class MissingSplit(InputError):
    """The data set does not have the requested split."""


def family_of(name: str) -> str | None:
    """Returns `train`, `val` or `test` for a common name of a split, or None for any other name."""
    families = [family for family, names in FAMILIES.items() if name.lower() in names]
    return families[0] if families else None


def choose(wanted: str, present: Iterable[str], where: str) -> tuple[str, list[str]]:
    """Returns the split that matches a name such as `val2017`, and notes about substitutions.

    An exact match is preferred, then a match that ignores case, then another name of the same family. A test split
    replaces a missing validation split, and a single split with an uncommon name is used for training.

    Raises:
      MissingSplit: the split does not exist.
    """
    names = list(present)
    if wanted in names:
        return wanted, []
    family = family_of(wanted)
    found = [name for name in names if name.lower() == wanted.lower()]
    found = found or [name for usual in FAMILIES.get(family or "", ()) for name in names if name.lower() == usual]
    if found:
        return found[0], []  # "valid" for "val" needs no note
    if family in STANDS_IN:
        found = [name for usual in FAMILIES[STANDS_IN[family]] for name in names if name.lower() == usual]
        if found:
            return found[0], [f"{where} has no split {wanted}; {found[0]} is used instead"]
    if family == "train" and len(names) == 1 and family_of(names[0]) is None:
        return names[0], [f"{where} has one split, {names[0]}, which is used for training"]
    listed = f"it has {', '.join(names)}" if names else "it has no splits"
    raise MissingSplit(f"the split {wanted} does not exist in {where}; {listed}.")
