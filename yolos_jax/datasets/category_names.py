"""Compares, deduplicates and formats category names."""

import re
from collections import Counter
from collections.abc import Mapping

from yolos_jax.errors import one_line

_PLACEHOLDER = re.compile(r"LABEL_\d+|N/A|")  # used by transformers for unnamed classes
MOST = 12  # maximum number of categories in a message
WIDEST = 60  # maximum length of a name in a message


def plain_name(name: str) -> str:
    """Simplifies a name for comparison: ignores case and treats spaces, underscores and hyphens alike."""
    return " ".join(re.sub(r"[_\-\s]+", " ", name).split()).casefold()


def known_names(names: Mapping[int, str] | None) -> dict[int, str]:
    """Makes names distinct (see `distinct`) and removes placeholders from transformers."""
    return {number: name for number, name in distinct(names or {}).items() if not _PLACEHOLDER.fullmatch(name)}


def distinct(names: Mapping[int, str]) -> dict[int, str]:
    """Makes names distinct, in order of their ids: a second `person` becomes `person (2)`. Keeps placeholders."""
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
    """Shortens a name for tables and messages, and escapes line breaks and control characters."""
    plain = one_line(name)
    return plain if len(plain) <= WIDEST else f"{plain[: WIDEST - 3]}..."


def listing(names: Mapping[int, str]) -> str:
    """Formats up to `MOST` ids and names, for example `1 cat, 2 dog`."""
    some = [f"{number} {on_one_line(name)}" for number, name in sorted(names.items())[:MOST]]
    if len(names) > MOST:
        some.append(f"... ({len(names)} in all)")
    return ", ".join(some)
