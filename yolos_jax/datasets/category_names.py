"""Compares and lists names of categories, and leaves out placeholders."""

import re
from collections import Counter
from collections.abc import Mapping

from yolos_jax.errors import one_line

_PLACEHOLDER = re.compile(r"LABEL_\d+|N/A|")  # written by transformers
MOST = 12  # maximum number of categories to list
WIDEST = 60  # maximum characters of a listed name


def plain_name(name: str) -> str:
    """A name for comparison, without case, spaces, underscores and hyphens."""
    return " ".join(re.sub(r"[_\-\s]+", " ", name).split()).casefold()


def known_names(names: Mapping[int, str] | None) -> dict[int, str]:
    """Distinct names by number (see `distinct`), without the placeholders of transformers."""
    return {number: name for number, name in distinct(names or {}).items() if not _PLACEHOLDER.fullmatch(name)}


def distinct(names: Mapping[int, str]) -> dict[int, str]:
    """Names by number, in the order of the numbers; the second `person` becomes `person (2)`. Placeholders stay."""
    taken = set(names.values())
    seen: Counter[str] = Counter()
    found = {}
    for number, name in sorted(names.items()):
        seen[name] += 1
        if seen[name] > 1 and not _PLACEHOLDER.fullmatch(name):
            count = seen[name]
            while (new := f"{name} ({count})") in taken:
                count += 1
            taken.add(new)
            name = new
        found[number] = name
    return found


def on_one_line(name: str) -> str:
    """A name for tables and messages: shortened, without line breaks and control characters."""
    plain = one_line(name)
    return plain if len(plain) <= WIDEST else f"{plain[: WIDEST - 3]}..."


def listing(names: Mapping[int, str]) -> str:
    """`1 cat, 2 dog`: numbers and names, at most `MOST` of them."""
    some = [f"{number} {on_one_line(name)}" for number, name in sorted(names.items())[:MOST]]
    if len(names) > MOST:
        some.append(f"... ({len(names)} in all)")
    return ", ".join(some)
