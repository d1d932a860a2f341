"""Completes, checks, modifies and compares recipes."""

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
    """The complete and checked config of a recipe, which may be a ConfigDict, nested dicts or already a config.

    Missing keys get their defaults or, for the architecture, the values of the variant in `model.from_init`. Raises
    `InputError` for a recipe of the other task, an unknown key or an invalid value.
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
    """The architecture settings of the variant in `model.from_init`, by key; empty if it is not a variant."""
    model = VARIANTS.get(str(found.get("model.from_init")))
    return {} if model is None else {f"model.{name}": getattr(model, name) for name in ARCHITECTURE}


def stated_architecture(recipe: Recipe) -> tuple[str, ...]:
    """Names of the architecture settings that a detector's recipe sets; `model.from_init` does not override them.

    A config from `read_recipe` contains all of them, so only those that differ from the variant count as set.
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
    """Changes one setting of a recipe to a command-line argument; raises `InputError` like `read_recipe`."""
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
    """Converts a config to the form stored in checkpoints: nested dicts, with lists instead of tuples."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def setting_differences(old: Any, new: Any, hosts: bool = False, never: bool = False) -> list[str]:
    """Lists settings that must be equal in two recipes but differ, such as "seed 0 vs. 1".

    The recipes are those of a checkpoint and of the run that resumes from it or, with `hosts`, of two processes of one
    run. A missing key counts as its default, so that checkpoints from before a key existed can be resumed. With
    `never`, only settings that can never change when a run resumes are compared.
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
            found.append(f"{key} {ours} vs. {theirs}")
    return found


def _is_free(how: Setting, hosts: bool, never: bool, augments: bool) -> bool:
    """Whether a setting may differ between the recipes."""
    if hosts:
        return how.host
    if never:
        return how.resume != NEVER
    return how.resume == YES or (how.resume == AUGMENTED and augments)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def sections(table: Table) -> tuple[str, ...]:
    """The names of the groups of settings."""
    return tuple(dict.fromkeys(key.partition(".")[0] for key in table if "." in key))


def unknown(key: str, table: Table) -> str:
    """The error message for an unknown key, which suggests similar keys."""
    name = shown(key)[1:-1]
    if key in sections(table):
        inside = ", ".join(f"config.{each}" for each in table if each.startswith(f"{key}."))
        return f"config.{name} is a group of settings: {inside}."
    near = [f"config.{each}" for each in nearest(name, table)]
    hint = f"did you mean {' or '.join(near)}?" if near else "--help lists all settings."
    return f"there is no config.{name}; {hint}"


def nearest(name: str, table: Table) -> list[str]:
    """Keys similar to a misspelt name or to one from another package; returns the matches of the strictest rule."""
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
    """The names and values of a recipe or a group; lists, which JSON has instead of tuples, become tuples."""
    try:
        return [(str(name), tuple(value) if isinstance(value, list) else value) for name, value in recipe.items()]
    except Exception as error:  # computing a value may fail, or the object may not be a config
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError(f"{where} cannot be read ({reason}).") from error
