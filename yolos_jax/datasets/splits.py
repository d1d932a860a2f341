"""Which of a data set's splits is meant: people and tools call them by several names. No jax here."""

from collections.abc import Iterable

from yolos_jax.errors import InputError

# Names for one and the same, the likeliest first; compared without case.
FAMILIES = {
    "train": ("train", "train2017", "training", "trainval", "trn"),
    "val": ("val", "val2017", "valid", "validation", "dev", "eval"),
    "test": ("test", "test2017", "testing"),
}
STANDS_IN = {"val": "test"}  # what is scored if there is no such split


class MissingSplit(InputError):
    """A data set has no such split."""


def family_of(name: str) -> str | None:
    """`train`, `val` or `test` for one of its names; None for any other name."""
    families = [family for family, names in FAMILIES.items() if name.lower() in names]
    return families[0] if families else None


def choose(wanted: str, present: Iterable[str], where: str) -> tuple[str, list[str]]:
    """The split that is meant by a name such as `val2017`, and notes if it has another name.

    A literal name comes first, then another case of letters, then another name of the same family; a test split
    stands in for a missing one to validate on, and an only split that is called by no usual name is to train on.
    A name that no tool uses is taken literally.

    Raises:
      MissingSplit: there is no such split.
    """
    names = list(present)
    if wanted in names:
        return wanted, []
    family = family_of(wanted)
    found = [name for name in names if name.lower() == wanted.lower()]
    found = found or [name for usual in FAMILIES.get(family or "", ()) for name in names if name.lower() == usual]
    if found:
        return found[0], []  # "valid" for "val" is no news
    if family in STANDS_IN:
        found = [name for usual in FAMILIES[STANDS_IN[family]] for name in names if name.lower() == usual]
        if found:
            return found[0], [f"{where} has no split {wanted}; {found[0]} stands in for it"]
    if family == "train" and len(names) == 1 and family_of(names[0]) is None:
        return names[0], [f"{where} has one split, {names[0]}, which is taken to train on"]
    listed = f"it has {', '.join(names)}" if names else "it has none"
    raise MissingSplit(f"the split {wanted} does not exist in {where}; {listed}.")
