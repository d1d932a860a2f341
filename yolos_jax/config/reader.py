"""Reads recipes: completes and checks them, changes single settings, and compares two of them."""

import dataclasses
import difflib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from yolos_jax.config.recipes import (
    ARCHITECTURE,
    CONFIGS,
    DETECTION,
    SETTINGS,
    Config,
    DetectionConfig,
    Recipe,
    require,
    task_of,
)
from yolos_jax.config.values import Declared
from yolos_jax.errors import InputError, shown
from yolos_jax.model.config import VARIANTS
from yolos_jax.setting import AUGMENTED, NEVER, YES, Setting

Table = Mapping[str, Declared]
C = TypeVar("C", bound=Config)


def read_recipe(recipe: Recipe, kind: type[C]) -> C:
    """The complete and checked config of a recipe: a ConfigDict, nested dicts, or a config already.

    Keys that the recipe lacks have their defaults, or what `model.from_init` gives them. An `InputError` says that it
    is a recipe of the other task, or names a key that is no setting, or a value that its setting does not accept.
    """
    if isinstance(recipe, kind):
        return recipe
    task = next(name for name, each in CONFIGS.items() if each is kind)
    require(recipe, task)
    table = SETTINGS[task]
    found = flat(recipe, table)
    for key in found:
        if key not in table:
            raise InputError(unknown(key, table))
    found = _of_variant(found) | found
    values = {key: setting.check(found.get(key, setting.default)) for key, setting in table.items()}
    groups: dict[str, Any] = {key: value for key, value in values.items() if "." not in key}
    for section in sections(table):
        inside = {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{section}.")}
        groups[section] = type(getattr(kind(), section))(**inside)
    return kind(**groups)


def _of_variant(found: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture of the variant that `model.from_init` names, by key; nothing without one."""
    model = VARIANTS.get(str(found.get("model.from_init")))
    return {} if model is None else {f"model.{name}": getattr(model, name) for name in ARCHITECTURE}


def stated_architecture(recipe: Recipe) -> tuple[str, ...]:
    """Names of what a detector's recipe itself says of the architecture, which `model.from_init` does not touch.

    A config that has been read has all of it; what differs from the variant counts there.
    """
    found = flat(recipe, SETTINGS[DETECTION])
    usual = _of_variant(found) if isinstance(recipe, DetectionConfig) else {}
    keys = [f"model.{name}" for name in ARCHITECTURE]
    stated = [key for key in keys if key in found and (key not in usual or found[key] != usual[key])]
    return tuple(key.removeprefix("model.") for key in stated)


def read_any(recipe: Recipe) -> Config:
    """The same of a recipe of whichever task it says."""
    return read_recipe(recipe, CONFIGS[task_of(recipe)])


def assign(recipe: ConfigDict, key: str, text: str) -> None:
    """Sets one value of a recipe from a word of the command line; raises `InputError` as `read` does."""
    table = SETTINGS[task_of(recipe)]
    if key not in table:
        raise InputError(unknown(key, table))
    value = table[key].check(table[key].read(text))
    section, _, name = key.rpartition(".")
    with recipe.unlocked(), recipe.ignore_type():
        if section and not isinstance(recipe.get(section, None), ConfigDict):
            recipe[section] = ConfigDict()
        (recipe[section] if section else recipe)[name] = value


def to_json(config: Config) -> dict[str, Any]:
    """A config as a checkpoint records it: nested dicts, with lists for tuples."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def setting_differences(old: Any, new: Any, hosts: bool = False, never: bool = False) -> list[str]:
    """Sentences such as "seed 0 against 1" for settings that must be the same in two recipes.

    They are a checkpoint's and the resuming run's or, with `hosts`, those of two processes of one run. Keys that one
    of them lacks count as their defaults, so a checkpoint from before a key existed need not differ. With `never`, only
    settings that a resuming run can in no case change.
    """
    table = SETTINGS[task_of(new)]
    a, b = flat(old, table), flat(new, table)
    augments = bool(a.get("data.scales", SETTINGS[DETECTION]["data.scales"].default))
    found = []
    for key in sorted(table.keys() | a.keys() | b.keys()):
        how = table[key].setting if key in table else Setting("")
        default = table[key].default if key in table else None
        ours, theirs = _plain(a.get(key, default)), _plain(b.get(key, default))
        if ours != theirs and not _is_free(how, hosts, never, augments):
            found.append(f"{key} {ours} against {theirs}")
    return found


def _is_free(how: Setting, hosts: bool, never: bool, augments: bool) -> bool:
    """Whether a setting need not be the same."""
    if hosts:
        return how.host
    if never:
        return how.resume != NEVER
    return how.resume == YES or (how.resume == AUGMENTED and augments)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def sections(table: Table) -> tuple[str, ...]:
    """The groups of settings."""
    return tuple(dict.fromkeys(key.partition(".")[0] for key in table if "." in key))


def unknown(key: str, table: Table) -> str:
    """The sentence on a key that is no setting, with the nearest ones."""
    name = shown(key)[1:-1]
    if key in sections(table):
        inside = ", ".join(f"config.{each}" for each in table if each.startswith(f"{key}."))
        return f"config.{name} is a group of settings: {inside}."
    near = [f"config.{each}" for each in nearest(name, table)]
    hint = f"do you mean {' or '.join(near)}?" if near else "--help lists all settings."
    return f"there is no config.{name}; {hint}"


def nearest(name: str, table: Table) -> list[str]:
    """Keys that a misspelt or foreign name probably means, the surest kind of likeness alone."""
    last = name.rpartition(".")[2]
    same = [key for key in table if key.rpartition(".")[2] == last]
    foreign = [key for key, found in table.items() if last in found.setting.also]
    alike = difflib.get_close_matches(name, table, n=2, cutoff=0.75)
    last_alike = [key for key in table if difflib.get_close_matches(last, [key.rpartition(".")[2]], cutoff=0.8)]
    return same or foreign or alike or last_alike


def flat(recipe: Any, table: Table) -> dict[str, Any]:
    """Values by dotted key."""
    if dataclasses.is_dataclass(recipe) and not isinstance(recipe, type):
        recipe = dataclasses.asdict(recipe)
    groups = sections(table)
    found: dict[str, Any] = {}
    for name, value in _items(recipe, "the config"):
        is_group = isinstance(value, Mapping | ConfigDict)
        if name in groups and not is_group:
            raise InputError(f"config.{name} is {shown(value)}; it must be a group of settings.")
        inside = _items(value, f"config.{name}") if is_group else []
        if inside or name in groups:
            found |= {f"{name}.{key}": inner for key, inner in inside}
        else:
            found[name] = value
    return found


def _items(recipe: Any, where: str) -> list[tuple[str, Any]]:
    """Names and values; lists, which JSON has, become tuples."""
    try:
        return [(str(name), tuple(value) if isinstance(value, list) else value) for name, value in recipe.items()]
    except Exception as error:  # a value that a recipe computes from others, or something that is no config at all
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError(f"{where} cannot be read ({reason}).") from error
