"""What follows from any table of settings: groups, a recipe's values by key, the nearest names, pages."""

import difflib
import itertools
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from yolos_jax.config.kinds import Optional, Real, Setting
from yolos_jax.errors import InputError, shown

Settings = Mapping[str, Setting]  # by dotted key


def sections(declared: Settings) -> tuple[str, ...]:
    """The groups of settings."""
    return tuple(dict.fromkeys(key.partition(".")[0] for key in declared if "." in key))


def former(declared: Settings) -> dict[str, str]:
    """Today's keys by those of earlier versions."""
    return {setting.former: key for key, setting in declared.items() if setting.former}


def unknown(key: str, declared: Settings) -> str:
    """What to say of a key that is no setting: the nearest ones."""
    name = shown(key)[1:-1]
    if key in sections(declared):
        inside = [k for k in declared if k.startswith(f"{key}.")]
        return f"config.{name} is a group of settings: {', '.join(f'config.{k}' for k in inside)}."
    last = name.rpartition(".")[2]
    near = [k for k in declared if k.rpartition(".")[2] == last]
    near = near or difflib.get_close_matches(name, declared, n=2, cutoff=0.75)
    near = near or [k for k in declared if difflib.get_close_matches(last, [k.rpartition(".")[2]], cutoff=0.8)]
    hint = f"do you mean {' or '.join(f'config.{k}' for k in near)}?" if near else "--help lists all settings."
    return f"there is no config.{name}; {hint}"


def flat(config: Any, declared: Settings) -> dict[str, Any]:
    """Values by dotted key, under today's names."""
    found: dict[str, Any] = {}
    groups = sections(declared)
    for name, value in _items(config, "the config"):
        is_group = isinstance(value, Mapping | ConfigDict)
        if name in groups and not is_group:
            raise InputError(f"config.{name} is {shown(value)}; it must be a group of settings.")
        inside = _items(value, f"config.{name}") if is_group else []
        found |= {f"{name}.{key}": inner for key, inner in inside} if inside or name in groups else {name: value}
    for old, key in former(declared).items():
        if old in found:
            value, unset = found.pop(old), shown(declared[key].default)
            if shown(found.get(key, value)) not in (shown(value), unset):
                raise InputError(f"{old} is now called {key}; set only {key}.")
            if shown(value) != unset or key not in found:
                found[key] = value
    return found


def _items(config: Any, where: str) -> list[tuple[str, Any]]:
    """Names and values; lists, which JSON has, become tuples."""
    try:
        return [(str(name), tuple(value) if isinstance(value, list) else value) for name, value in config.items()]
    except Exception as error:  # a value that a recipe computes from others, or something that is no config at all
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError(f"{where} cannot be read ({reason}).") from error


def nested(values: Mapping[str, Any], declared: Settings) -> ConfigDict:
    """A config of values by dotted key."""
    config = ConfigDict({section: {} for section in sections(declared)})
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        kind = declared[key].kind
        if isinstance(kind, Optional):  # ConfigDict keeps types; None needs a field that says which other one it has
            value = FieldReference(value, float if isinstance(kind.kind, Real) else tuple)
        (config[section] if section else config)[name] = value
    return config


def tables(declared: Settings, of: str = "") -> str:
    """A section of a page for each group, with what is declared."""
    text = ""
    for section, group in itertools.groupby(declared.items(), key=lambda item: item[0].rpartition(".")[0]):
        text += f"\n## {section or 'General'}{of}\n\n| key | default | value | meaning | resume |\n"
        text += "| --- | --- | --- | --- | --- |\n"
        for key, setting in group:
            resume = setting.resume + (", host" if setting.host else "")
            text += f"| `{key}` | `{setting.default!r}` | {setting.kind.wanted} | {setting.meaning} | {resume} |\n"
    return text
