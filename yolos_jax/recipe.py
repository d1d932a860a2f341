"""From a recipe (an ml_collections config, see yolos_jax/defaults.py) to the objects it describes."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from yolos_jax.data.annotations import Complain, stop
from yolos_jax.data.augment import Crop, Flip, Pipeline, Resize
from yolos_jax.data.examples import DataSet
from yolos_jax.data.plan import TrainingPlan
from yolos_jax.data.sources.coco import CocoSource
from yolos_jax.data.tfds.records import find_dataset
from yolos_jax.data.tfds.source import TfdsSource
from yolos_jax.errors import InputError
from yolos_jax.images.sequence import Geometry, default_max_side
from yolos_jax.model.config import YolosConfig

PRECISIONS = ("default", "high", "highest", "float32", "bfloat16", "tensorfloat32")

LEAST = {
    "seed": 0,
    "data.short_side": 1,
    "data.max_side": 0,
    "data.flip": 0,
    "data.crop": 0,
    "data.max_images": 0,
    "data.buckets": 1,
    "data.workers": 0,
    "data.ahead": 1,
    "train.batch_size": 1,
    "train.images_per_replica": 1,
    "train.accumulate": 1,
    "train.epochs": 1,
    "train.max_steps": 0,
    "train.ema": 0,
    "train.log_every": 1,
    "optimizer.learning_rate": 0,
    "optimizer.min_lr": 0,
    "optimizer.warmup_epochs": 0,
    "optimizer.weight_decay": 0,
    "optimizer.clip_norm": 0,
    "eval.batch_size": 1,
    "eval.every_epochs": 0,
    "checkpoint.every_steps": 1,
    "checkpoint.keep": 1,
}
CHOICES = {
    "precision": PRECISIONS,
    "data.on_bad_image": ("stop", "skip"),
    "data.categories": ("raw", "contiguous"),
    "matcher": ("host", "device"),
    "optimizer.schedule": ("epoch", "step"),
}


def value_of(config: Any, key: str) -> Any:
    """The value at a dotted key."""
    for part in key.split("."):
        config = config[part]
    return config


def check(config: Any) -> None:
    """`InputError` for the first value of a recipe that makes no sense."""
    for key, least in LEAST.items():
        value = value_of(config, key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < least:
            raise InputError(f"{key} is {value!r}; it must be a number of at least {least}.")
    for key, choices in CHOICES.items():
        if value_of(config, key) not in choices:
            raise InputError(f"{key} is {value_of(config, key)!r}; choose one of {', '.join(choices)}.")
    if config.train.ema >= 1:
        raise InputError(f"train.ema is {config.train.ema!r}; it is a decay such as 0.9998, or 0 for none.")


def model_of(config: Any, num_classes: int) -> YolosConfig:
    """The model; `num_classes` is the data's or a checkpoint's, for a recipe that leaves it open (0)."""
    values = config.model.to_dict()
    return YolosConfig.from_dict(values | {"num_classes": values["num_classes"] or num_classes})


def geometry_of(config: Any, model: YolosConfig) -> Geometry:
    """How images are resized for evaluation (and in training without augmentation)."""
    return Geometry.of(config.data.short_side, config.data.max_side, model.patch_size, model.max_side)


def augmentation_of(config: Any, model: YolosConfig) -> Pipeline:
    """What is done to training images; a recipe without `data.scales` does not augment."""
    data, patch = config.data, model.patch_size
    if not data.scales:
        return Pipeline.of(geometry_of(config, model))
    most = data.max_side or default_max_side(max(data.scales))
    Geometry.of(max(data.scales), most, patch, model.max_side)  # refuses what the model cannot take
    crop = Crop(data.crop, tuple(data.crop_sides), tuple(data.crop_range), patch)
    return Pipeline(Resize(tuple(data.scales), most, patch), before=(Flip(data.flip), crop))


def plan_of(config: Any, model: YolosConfig, sizes: np.ndarray) -> TrainingPlan:
    """Which images share a batch of training, for images of (width, height) `sizes`."""
    pipeline, train = augmentation_of(config, model), config.train
    return TrainingPlan(sizes, pipeline, train.batch_size, config.data.buckets, train.epochs, config.seed)


def prepare(config: Any) -> None:
    """Checks a recipe and makes its precision of matrix products the process's."""
    check(config)
    jax.config.update("jax_default_matmul_precision", config.precision)


def source_of(
    config: Any,
    which: str,
    category_ids: tuple[int, ...] | None = None,
    num_classes: int | None = None,
    complain: Complain = stop,
) -> DataSet:
    """The data set for "train" or "val": of a COCO folder or a TFDS directory, whichever `data.root` is.

    Args:
      category_ids, num_classes: a model's labels, where they are settled already.
    """
    data = config.data
    annotations, image_folder = data[f"{which}_annotations"], data[f"{which}_images"]
    shared = (
        data.root,
        data[f"{which}_split"],
        config.model.num_classes if num_classes is None else num_classes,
        data.max_images,
        data.categories,
        category_ids,
        annotations,
    )
    if not image_folder and find_dataset(data.root):
        return TfdsSource(*shared, complain)
    return CocoSource(*shared, image_folder, complain)


def check_same_model(found: YolosConfig, wanted: YolosConfig, where: str) -> None:
    """`InputError` that lists how a checkpoint's model differs from the recipe's."""
    different = found.differences(wanted)
    if different:
        raise InputError(f"the checkpoint {where} is of another model than the config: {'; '.join(different)}.")


def without_training_options(model: YolosConfig) -> YolosConfig:
    """The same model in float32 and without rematerialisation: what evaluation computes."""
    return dataclasses.replace(model, compute_dtype="float32", remat=False)
