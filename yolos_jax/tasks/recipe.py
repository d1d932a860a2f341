"""From a recipe to the objects it describes."""

import dataclasses
import warnings
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from yolos_jax.accelerators.choice import decided
from yolos_jax.accelerators.precision import dtype_of, products_of
from yolos_jax.config.reader import read_any, read_recipe
from yolos_jax.config.recipes import Config, DetectionConfig, Recipe
from yolos_jax.data.augment import Crop, Flip, Pipeline, Resize
from yolos_jax.data.plan import Repeated, TrainingPlan
from yolos_jax.datasets.annotations import Complain, stop
from yolos_jax.datasets.dataset import DataSet
from yolos_jax.datasets.opening import open_split
from yolos_jax.datasets.settings import Settled
from yolos_jax.evaluation.evaluator import Evaluator
from yolos_jax.evaluation.image_pass import Batching
from yolos_jax.evaluation.validation_loss import ValidationLoss
from yolos_jax.images.sequence import Geometry, default_max_side
from yolos_jax.inference.compiled import keep_compiled
from yolos_jax.model.config import ArchitectureSettings, Compute, NetworkConfig, YolosConfig
from yolos_jax.setting import part
from yolos_jax.tasks.augmentation.presets import PRESETS

C = TypeVar("C", bound=Config)


def prepare(config: Recipe, kind: type[C]) -> C:
    """A recipe, completed and checked; its precision of matrix products becomes the process's."""
    found = read_recipe(config, kind)
    jax.config.update("jax_default_matmul_precision", products_of(found.precision))
    return found


def compute_of(config: Config, kind: type, device: jax.Device, model: NetworkConfig) -> Compute:
    """How a recipe's network is computed on a device; `kind` has its settings of that."""
    asked = Compute(**dataclasses.asdict(part(config.model, kind)))
    if config.precision == "bfloat16":
        asked = dataclasses.replace(asked, compute_dtype=dtype_of(config.precision))
    return decided(asked, model, device)


def keep_programs(config: Recipe) -> None:
    """Turns on jax's compilation cache where a recipe wants it; a warning says why not."""
    note = keep_compiled(read_any(config).eval.compilation_cache)
    if note:
        warnings.warn(note, stacklevel=3)  # of whoever called the function that calls this one


def model_of(config: DetectionConfig, num_classes: int) -> YolosConfig:
    """The architecture; `num_classes` is the data's or a checkpoint's, for a recipe that leaves it open (0)."""
    wanted = part(config.model, ArchitectureSettings)
    return YolosConfig(**dataclasses.asdict(wanted) | {"num_classes": wanted.num_classes or num_classes})


def geometry_of(config: DetectionConfig, model: YolosConfig) -> Geometry:
    """How images are resized for evaluation (and in training without augmentation)."""
    return Geometry.of(config.data.short_side, config.data.max_side, model.patch_size, config.model.max_side)


def augmentation_of(config: DetectionConfig, model: YolosConfig) -> Pipeline:
    """What is done to training images: the reference augmentation if there are `data.scales`, and `data.augment`."""
    data, patch = config.data, model.patch_size
    preset = PRESETS[data.augment]
    if not data.scales:
        return preset.joined(Pipeline.of(geometry_of(config, model)))
    most = data.max_side or default_max_side(max(data.scales))
    crop = Crop(data.crop, data.crop_sides, data.crop_range, patch)
    pipeline = Pipeline(Resize(data.scales, most, patch), before=(Flip(data.flip), crop))
    Geometry.of(max(data.scales), most, patch, config.model.max_side)  # refuses what the model cannot take
    return preset.joined(pipeline)


def plan_of(
    config: DetectionConfig, model: YolosConfig, sizes: np.ndarray, repeats: Repeated | None = None
) -> TrainingPlan:
    """Which images share a batch of training, for images of (width, height) `sizes`."""
    pipeline, train = augmentation_of(config, model), config.train
    buckets, epochs = config.data.buckets, train.epochs
    return TrainingPlan(sizes, pipeline, train.batch_size, buckets, epochs, config.seed, train.least_steps, repeats)


def source_of(
    config: DetectionConfig,
    which: str,
    category_ids: tuple[int, ...] | None = None,
    num_classes: int | None = None,
    complain: Complain = stop,
    known: Settled | None = None,
) -> DataSet:
    """The data set for "train" or "val", in whichever layout `data.root` is.

    Args:
      category_ids, num_classes: a model's labels, where they are settled already.
      known: what else is settled then.

    Raises:
      MissingSplit: there is none; other `InputError`s say what is wrong with it.
    """
    classes = config.model.num_classes if num_classes is None else num_classes
    settled = dataclasses.replace(known or Settled(), category_ids=category_ids)
    return open_split(config.data, which, classes, settled, complain)


def batching_of(config: Config, mesh: Mesh) -> Batching:
    """How a recipe of any task reads the batches of an evaluation."""
    data = config.data
    return Batching(mesh, config.eval.batch_size, data.on_bad_image, data.workers, data.ahead)


def evaluator_of(
    config: DetectionConfig,
    model: YolosConfig,
    source: DataSet,
    mesh: Mesh,
    loss: ValidationLoss | None = None,
    nms: float | None = None,
) -> Evaluator:
    """What evaluates a model on a data set whose labels are the model's; see `Evaluator` for the rest."""
    geometry, batching = geometry_of(config, model), batching_of(config, mesh)
    buckets, block, precision = config.data.buckets, config.model.query_block, config.eval.precision
    return Evaluator(model, source, geometry, batching, buckets, block, loss, nms, precision)
