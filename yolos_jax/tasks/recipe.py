"""Creates the objects described by a recipe."""

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
    """Completes and validates a recipe; sets the process's default matmul precision accordingly."""
    found = read_recipe(config, kind)
    jax.config.update("jax_default_matmul_precision", products_of(found.precision))
    return found


def compute_of(config: Config, kind: type, device: jax.Device, model: NetworkConfig) -> Compute:
    """The compute settings of a recipe's network on a device; `kind` is the class that declares them."""
    asked = Compute(**dataclasses.asdict(part(config.model, kind)))
    if config.precision == "bfloat16":
        asked = dataclasses.replace(asked, compute_dtype=dtype_of(config.precision))
    return decided(asked, model, device)


def keep_programs(config: Recipe) -> None:
    """Sets up JAX's compilation cache as configured by a recipe; warns if it cannot be used."""
    note = keep_compiled(read_any(config).eval.compilation_cache)
    if note:
        warnings.warn(note, stacklevel=3)  # attributes the warning to the caller's caller


def model_of(config: DetectionConfig, num_classes: int) -> YolosConfig:
    """The architecture of a recipe; if it has `num_classes` 0, uses the given number, from the data or a checkpoint."""
    wanted = part(config.model, ArchitectureSettings)
    return YolosConfig(**dataclasses.asdict(wanted) | {"num_classes": wanted.num_classes or num_classes})


def geometry_of(config: DetectionConfig, model: YolosConfig) -> Geometry:
    """How images are resized for evaluation, and for training without augmentation."""
    return Geometry.of(config.data.short_side, config.data.max_side, model.patch_size, config.model.max_side)


def augmentation_of(config: DetectionConfig, model: YolosConfig) -> Pipeline:
    """The augmentation of training images: the reference's if `data.scales` is set, plus the preset `data.augment`."""
    data, patch = config.data, model.patch_size
    preset = PRESETS[data.augment]
    if not data.scales:
        return preset.joined(Pipeline.of(geometry_of(config, model)))
    most = data.max_side or default_max_side(max(data.scales))
    crop = Crop(data.crop, data.crop_sides, data.crop_range, patch)
    pipeline = Pipeline(Resize(data.scales, most, patch), before=(Flip(data.flip), crop))
    Geometry.of(max(data.scales), most, patch, config.model.max_side)  # raises an error for unsupported sizes
    return preset.joined(pipeline)


def plan_of(
    config: DetectionConfig, model: YolosConfig, sizes: np.ndarray, repeats: Repeated | None = None
) -> TrainingPlan:
    """The training plan for images whose (width, height) are `sizes`."""
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
    """Opens the "train" or "val" split of the data set in `data.root`, in any supported layout.

    Args:
      category_ids, num_classes: the labels of the model, if they are already known.
      known: other properties of the data that are already known.

    Raises:
      MissingSplit: the split does not exist.
      InputError: the split cannot be used.
    """
    classes = config.model.num_classes if num_classes is None else num_classes
    settled = dataclasses.replace(known or Settled(), category_ids=category_ids)
    return open_split(config.data, which, classes, settled, complain)


def batching_of(config: Config, mesh: Mesh) -> Batching:
    """How an evaluation loads its batches, for recipes of any task."""
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
    """An evaluator for a model and a data set with the same labels; see `Evaluator` for the other arguments."""
    geometry, batching = geometry_of(config, model), batching_of(config, mesh)
    buckets, block, chosen = config.data.buckets, config.model.query_block, config.eval
    how = chosen.precision, chosen.backend
    return Evaluator(model, source, geometry, batching, buckets, block, loss, nms, *how)
