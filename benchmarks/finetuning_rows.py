"""The rows of `benchmarks.finetuning`: recipes for a micro model, from the one at commit 27265a3 to the current one."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import unflatten_dict

from benchmarks.common import recipe_of
from yolos_jax.config.reader import flat
from yolos_jax.config.recipes import DETECTION, SETTINGS
from yolos_jax.errors import InputError
from yolos_jax.model.config import YolosConfig
from yolos_jax.training import rates, run

OLD, ALL = "27265a3", "all"
# The settings of `configs/finetune_custom.py` at that commit. Later settings have values that reproduce its behaviour.
OLD_SETTINGS: dict[str, Any] = {
    "train.batch_size": 8, "train.epochs": 50, "train.least_steps": 0, "train.patience": 0, "train.ema": 0.999,
    "optimizer.schedule": "step", "optimizer.warmup_epochs": 1.0, "optimizer.warmup_steps": 0,
    "eval.every_epochs": 5, "eval.least_steps": 0, "data.augment": "none",
}  # fmt: skip
CONSTANT = "constant average"  # not a setting: selects the moving average of that commit, without decay warm-up
# The settings of the current recipe that each row adds to the old one. "+steps" also specifies the warm-up and the
# evaluation interval in steps, and "+patience" evaluates after every epoch, as patience needs frequent evaluations.
CHANGES: dict[str, tuple[str, ...]] = {
    "+average": (CONSTANT,),
    "+steps": ("train.least_steps", "optimizer.warmup_steps", "eval.every_epochs", "eval.least_steps"),
    "+augment": ("data.augment",),
    "+patience": ("train.patience", "eval.every_epochs"),
}
AUGMENT = "light"  # preset for "+augment", because the current recipe uses none
ROWS = (OLD, *CHANGES, ALL)

# Sizes for patches of 8 x 8 pixels, in proportion to the recipe's short sides (480 to 800) and crops (384 to 600).
_DIGITS: dict[str, Any] = {
    "data.short_side": 64, "data.max_side": 80, "data.scales": (48, 56, 64),
    "data.crop_sides": (32, 40, 48), "data.crop_range": (32, 48), "model.max_side": 10,
}  # fmt: skip
_BCCD: dict[str, Any] = {
    "data.short_side": 96, "data.max_side": 128, "data.scales": (64, 72, 80, 88, 96),
    "data.crop_sides": (48, 60, 72), "data.crop_range": (48, 72), "model.max_side": 16,
}  # fmt: skip
SIZES = {"digits": _DIGITS, "bccd": _BCCD}
# Twice the learning rate of `configs/digits.py`, just as the recipe has twice that of `configs/yolos_s.py`.
MICRO: dict[str, Any] = {
    "optimizer.learning_rate": 1e-3, "train.accumulate": 1, "train.log_every": 200, "train.curves": False,
    "data.workers": 0, "data.buckets": 1, "eval.batch_size": 50, "eval.compilation_cache": "off",
    "checkpoint.every_steps": 1_000_000, "checkpoint.keep": 1,
}  # fmt: skip


def settings_of(row: str, data: str, model: YolosConfig) -> dict[str, Any]:
    """The settings of a row that differ from the defaults, as dotted keys, and the type of moving average.

    Args:
      row: one of `ROWS`, optionally followed by settings, as in "all,data.augment=light".
      data: one of `SIZES`.
      model: the micro architecture.

    Raises:
      InputError: there is no such row, or it needs a setting that this version does not have.
    """
    name, *more = row.split(",")
    table = SETTINGS[DETECTION]
    shipped = {key: setting.default for key, setting in table.items()}
    shipped |= flat(recipe_of("finetune_custom"), table) | {CONSTANT: not average_warms_up()}
    found = dict(shipped)
    if name != ALL:
        found |= OLD_SETTINGS | {CONSTANT: True}
        for key in _taken_over(name):
            found[key] = shipped.get(key)
    if name == "+augment" and found["data.augment"] == "none":
        found["data.augment"] = AUGMENT
    found |= MICRO | SIZES[data] | {f"model.{key}": value for key, value in model.to_dict().items()}
    found |= {"model.num_classes": 0}  # derived from the data
    found |= {"model.from_init": "no"} if "model.from_init" in table else {}
    for word in more:
        key, _, text = word.partition("=")
        if key not in table:
            raise InputError(f"the row {row} needs the setting {key}, which this version does not have.")
        found[key] = table[key].check(table[key].read(text))
    return _stated(row, found)


def _taken_over(name: str) -> tuple[str, ...]:
    if name == OLD:
        return ()
    if name not in CHANGES:
        raise InputError(f"there is no row {name}; choose from {', '.join(ROWS)}.")
    if name == "+average" and not average_warms_up():
        raise InputError(
            "the row +average needs a moving average with decay warm-up, which this version does not support."
        )
    return CHANGES[name]


def _stated(row: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that differ from the defaults."""
    table = SETTINGS[DETECTION]
    stated: dict[str, Any] = {CONSTANT: found[CONSTANT]}
    for key, value in found.items():
        if key in table and value != table[key].default:
            stated[key] = value
        elif key not in table and key != CONSTANT and value != OLD_SETTINGS.get(key):
            raise InputError(f"the row {row} needs the setting {key}, which this version does not have.")
    return stated


def recipe_from(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Converts settings to a recipe for `yolos_jax.train`."""
    return unflatten_dict({key: value for key, value in settings.items() if key != CONSTANT}, sep=".")


def average_warms_up() -> bool:
    """Whether the decay of the moving average warms up, so that the first update replaces most of the weights."""
    average: Any = rates.make_average(0.999)
    zero = {"x": jnp.zeros(())}
    one = {"x": jnp.ones(())}
    try:
        after = average(zero, one, jnp.int32(1))
    except TypeError:  # this version does not accept the number of updates
        return False
    return float(after["x"]) > 0.5


def with_constant_average() -> None:
    """Replaces the moving average in this process with the one at commit 27265a3, which has a constant decay."""

    def make_average(decay: float, rates: Any = None) -> Any:
        def average(old: dict, params: dict, *_: jax.Array) -> dict:
            return optax.incremental_update(params, old, 1.0 - decay)

        return average

    if not hasattr(run, "make_average"):
        raise InputError("yolos_jax.training.run no longer uses make_average; update benchmarks.finetuning.")
    run.make_average = make_average
