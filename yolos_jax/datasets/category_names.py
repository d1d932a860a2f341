"""Names of categories: comparing them, leaving placeholders out, listing them."""

import re
from collections.abc import Mapping

_PLACEHOLDER = re.compile(r"LABEL_\d+|N/A|")  # in the files of transformers
MOST = 12  # categories listed


def plain_name(name: str) -> str:
    """A name for comparison: letters' case, spaces, underscores and hyphens make no difference."""
    return " ".join(re.sub(r"[_\-\s]+", " ", name).split()).casefold()


def known_names(names: Mapping[int, str] | None) -> dict[int, str]:
    """Names by number, without the placeholders of transformers."""
    return {number: name for number, name in (names or {}).items() if not _PLACEHOLDER.fullmatch(name)}


def listing(names: Mapping[int, str]) -> str:
    """`1 cat, 2 dog`: numbers and names, at most `MOST` of them."""
    some = [f"{number} {name}" for number, name in sorted(names.items())[:MOST]]
    if len(names) > MOST:
        some.append(f"... ({len(names)} in all)")
    return ", ".join(some)
