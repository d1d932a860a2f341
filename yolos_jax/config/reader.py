"""Reads recipes: completes, checks, changes and compares them."""

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

    Missing keys get their defaults, or the values from `model.from_init`. `InputError` for a recipe of the other task,
    an unknown key, or an invalid value.
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
    """The architecture, by key, of the variant in `model.from_init`; empty without one."""
    model = VARIANTS.get(str(found.get("model.from_init")))
    return {} if model is None else {f"model.{name}": getattr(model, name) for name in ARCHITECTURE}


def stated_architecture(recipe: Recipe) -> tuple[str, ...]:
    """Names of the architecture's settings that a detector's recipe states, which `model.from_init` does not change.

    A config that was read has all of them; there, those that differ from the variant count as stated.
    """
    found = flat(recipe, SETTINGS[DETECTION])
    usual = _of_variant(found) if isinstance(recipe, DetectionConfig) else {}
    keys = [f"model.{name}" for name in ARCHITECTURE]
    stated = [key for key in keys if key in found and (key not in usual or found[key] != usual[key])]
    return tuple(key.removeprefix("model.") for key in stated)


def read_any(recipe: Recipe) -> Config:
    """Like `read_recipe`, for a recipe of either task."""
    return read_recipe(recipe, CONFIGS[task_of(recipe)])


def assign(recipe: ConfigDict, key: str, text: str) -> None:
    """Sets one value of a recipe from a command-line argument; raises `InputError` like `read_recipe`."""
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
    """A config in a checkpoint's form: nested dicts, with lists for tuples."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def setting_differences(old: Any, new: Any, hosts: bool = False, never: bool = False) -> list[str]:
    """Differences such as "seed 0 against 1" in settings that must be equal in two recipes.

    The recipes are a checkpoint's and the resuming run's or, with `hosts`, those of two processes of one run. Missing
    keys count as their defaults, so a checkpoint older than a key need not differ. With `never`, compares only settings
    that a resuming run can never change.
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
    """Whether a setting may differ."""
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
    """The message for an unknown key, with similar ones."""
    name = shown(key)[1:-1]
    if key in sections(table):
        inside = ", ".join(f"config.{each}" for each in table if each.startswith(f"{key}."))
        return f"config.{name} is a group of settings: {inside}."
    near = [f"config.{each}" for each in nearest(name, table)]
    hint = f"did you mean {' or '.join(near)}?" if near else "--help lists all settings."
    return f"there is no config.{name}; {hint}"


def nearest(name: str, table: Table) -> list[str]:
    """Keys similar to a misspelt or foreign name, by the strictest rule with a match."""
    last = name.rpartition(".")[2]
    same = [key for key in table if key.rpartition(".")[2] == last]
    foreign = [key for key, found in table.items() if last in found.setting.also]
    alike = difflib.get_close_matches(name, table, n=2, cutoff=0.75)
    last_alike = [key for key in table if difflib.get_close_matches(last, [key.rpartition(".")[2]], cutoff=0.8)]
    return same or foreign or alike or last_alike


def flat(recipe: Any, table: Table) -> dict[str, Any]:
    """A recipe's values by dotted key."""
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
    """Names and values; lists, which come from JSON, become tuples."""
    try:
        return [(str(name), tuple(value) if isinstance(value, list) else value) for name, value in recipe.items()]
    except Exception as error:  # a computed value that fails, or an object that is not a config
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError(f"{where} cannot be read ({reason}).") from error
