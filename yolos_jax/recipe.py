"""From a recipe (an ml_collections config, see configs/common.py) to the objects it describes."""

from typing import Any

import jax

from yolos_jax.data.loader import Geometry
from yolos_jax.errors import InputError
from yolos_jax.model.config import YolosConfig

PRECISIONS = ("default", "high", "highest", "float32", "bfloat16", "tensorfloat32")


def model_config(config: Any) -> YolosConfig:
    """The `YolosConfig` of a recipe."""
    return YolosConfig.from_dict(config.model.to_dict())


def geometry_of(config: Any, model: YolosConfig) -> Geometry:
    """The picture geometry of a recipe."""
    return Geometry.of(config.data.short_side, config.data.max_side, model.patch_size, model.max_side)


def set_precision(config: Any) -> None:
    """Makes the recipe's precision of float32 matrix products the process's."""
    if config.precision not in PRECISIONS:
        raise InputError(f"precision is {config.precision!r}; choose one of {', '.join(PRECISIONS)}.")
    jax.config.update("jax_default_matmul_precision", config.precision)


def check_same_model(found: YolosConfig, wanted: YolosConfig, where: str) -> None:
    """`InputError` that lists how a checkpoint's model differs from the recipe's."""
    different = found.differences(wanted)
    if different:
        raise InputError(f"the checkpoint {where} is of another model than the config: {'; '.join(different)}.")
