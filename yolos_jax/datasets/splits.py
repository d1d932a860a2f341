"""Finds a data set's split under its various common names. No jax here."""

from collections.abc import Iterable

from yolos_jax.errors import InputError

# Synonyms, the likeliest first; compared without case.
FAMILIES = {
    "train": ("train", "train2017", "training", "trainval", "trn"),
    "val": ("val", "val2017", "valid", "validation", "dev", "eval"),
    "test": ("test", "test2017", "testing"),
}
STANDS_IN = {"val": "test"}  # used if the split does not exist


class MissingSplit(InputError):
    """The data set does not have the requested split."""


def family_of(name: str) -> str | None:
    """`train`, `val` or `test` for one of its names; None for any other name."""
    families = [family for family, names in FAMILIES.items() if name.lower() in names]
    return families[0] if families else None


def choose(wanted: str, present: Iterable[str], where: str) -> tuple[str, list[str]]:
    """Finds the split for a name such as `val2017`; adds notes if it has another name.

    A literal match comes first, then a match without case, then another name of the same family. A test split
    replaces a missing validation split, and a single split with an uncommon name is the training split. An uncommon
    name must match literally.

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
    listed = f"it has {', '.join(names)}" if names else "it has none"
    raise MissingSplit(f"the split {wanted} does not exist in {where}; {listed}.")
