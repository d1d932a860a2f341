"""Names of classes: which of them mean the same, and which mean none."""

import re
from collections.abc import Mapping

_NONE = re.compile(r"LABEL_\d+|N/A|")  # what stands for no name in the files of transformers
MOST = 12  # classes listed


def plain_name(name: str) -> str:
    """A name without differences that mean nothing: letters' case, spaces, underscores and hyphens."""
    return " ".join(re.sub(r"[_\-\s]+", " ", name).split()).casefold()


def known_names(names: Mapping[int, str] | None) -> dict[int, str]:
    """Names by number but for the placeholders of transformers."""
    return {number: name for number, name in (names or {}).items() if not _NONE.fullmatch(name)}


def listing(names: Mapping[int, str]) -> str:
    """`1 cat, 2 dog`: numbers and names, the first of many."""
    some = [f"{number} {name}" for number, name in sorted(names.items())[:MOST]]
    return ", ".join(some + ([f"... ({len(names)} in all)"] if len(names) > MOST else []))
