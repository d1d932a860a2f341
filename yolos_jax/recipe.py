"""From a recipe (an ml_collections config, see configs/common.py) to the objects it describes."""

import math
from typing import Any

import jax

from yolos_jax.errors import InputError
from yolos_jax.model.config import YolosConfig
from yolos_jax.sequence import Geometry

PRECISIONS = ("default", "high", "highest", "float32", "bfloat16", "tensorfloat32")

LEAST = {
    "seed": 0,
    "data.short_side": 1,
    "data.max_side": 0,
    "data.max_images": 0,
    "data.buckets": 1,
    "train.batch_size": 1,
    "train.images_per_replica": 1,
    "train.epochs": 1,
    "train.max_steps": 0,
    "train.log_every": 1,
    "optimizer.learning_rate": 0,
    "optimizer.min_lr": 0,
    "optimizer.warmup_epochs": 0,
    "optimizer.weight_decay": 0,
    "optimizer.clip_norm": 0,
    "eval.batch_size": 1,
}


def check(config: Any) -> None:
    """`InputError` for the first number of a recipe that makes no sense."""
    for key, least in LEAST.items():
        value = config
        for part in key.split("."):
            value = value[part]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < least:
            raise InputError(f"{key} is {value!r}; it must be a number of at least {least}.")
    if config.data.on_bad_image not in ("stop", "skip"):
        raise InputError(f"data.on_bad_image is {config.data.on_bad_image!r}; it must be 'stop' or 'skip'.")
    if config.precision not in PRECISIONS:
        raise InputError(f"precision is {config.precision!r}; choose one of {', '.join(PRECISIONS)}.")


def prepare(config: Any) -> tuple[YolosConfig, Geometry]:
    """Checks a recipe, makes its precision of matrix products the process's, and reads off model and geometry."""
    check(config)
    model = YolosConfig.from_dict(config.model.to_dict())
    geometry = Geometry.of(config.data.short_side, config.data.max_side, model.patch_size, model.max_side)
    jax.config.update("jax_default_matmul_precision", config.precision)
    return model, geometry


def check_same_model(found: YolosConfig, wanted: YolosConfig, where: str) -> None:
    """`InputError` that lists how a checkpoint's model differs from the recipe's."""
    different = found.differences(wanted)
    if different:
        raise InputError(f"the checkpoint {where} is of another model than the config: {'; '.join(different)}.")
