"""Reads users' YAML files; limits nesting and alias expansion before loading. Does not import jax."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from yolos_jax.errors import InputError
from yolos_jax.user_files import read_text

MOST_BYTES, MOST_NODES, MOST_DEPTH = 2**23, 10**6, 50
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Size(NamedTuple):
    """The size of a node after alias expansion."""

    nodes: int = 1
    depth: int = 1


def read_yaml(file: Path) -> Any:
    """Reads a YAML file.

    Raises `InputError` if it cannot be read, is not YAML, or is too deep or too large after alias expansion.
    """
    text = read_text(file, "the file", MOST_BYTES)
    try:
        _check_size(text)
        return yaml.load(text, _LOADER)
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        reason = f"{error.problem or error.context}{where}"
        raise InputError(f"{file} cannot be read as YAML ({' '.join(reason.split())[:200]}).") from error
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        # PyYAML raises various errors for values such as an impossible date.
        raise InputError(f"{file} cannot be read as YAML ({' '.join(str(error).split())[:200]}).") from error


def _check_size(text: str) -> None:
    """Raises `ValueError` for nesting deeper than `MOST_DEPTH`, or more than `MOST_NODES` expanded nodes."""
    anchors: dict[str, _Size] = {}
    opened: list[tuple[str | None, _Size]] = [(None, _Size())]  # (anchor, size so far) of each open collection
    for event in yaml.parse(text, _LOADER):
        closed: tuple[str | None, _Size] | None = None
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, _Size()))
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = opened.pop()
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise ValueError(f"the alias *{event.anchor} refers to itself or to an undefined anchor")
            closed = None, anchors[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            closed = event.anchor, _Size()
        if closed is not None:
            anchor, size = closed
            if anchor is not None:
                anchors[anchor] = size
            name, outer = opened[-1]
            opened[-1] = name, _Size(outer.nodes + size.nodes, max(outer.depth, size.depth + 1))
        depth = len(opened) + opened[-1][1].depth
        if depth > MOST_DEPTH:
            raise ValueError(f"it is nested deeper than {MOST_DEPTH} levels")
        if opened[-1][1].nodes > MOST_NODES:
            raise ValueError(f"it expands to more than {MOST_NODES} values")
