"""From a recipe to the objects it describes."""

import contextlib
import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from yolos_jax.config.reader import read_any, read_recipe, stated_architecture
from yolos_jax.config.recipes import ARCHITECTURE, OWN, Config, DetectionConfig, Recipe
from yolos_jax.data.augment import Crop, Flip, Pipeline, Resize
from yolos_jax.data.plan import TrainingPlan
from yolos_jax.datasets.annotations import Complain, stop
from yolos_jax.datasets.dataset import DataSet
from yolos_jax.datasets.opening import open_split
from yolos_jax.datasets.settings import Settled
from yolos_jax.distributed.processes import Processes
from yolos_jax.evaluation.evaluator import Evaluator
from yolos_jax.evaluation.image_pass import Batching
from yolos_jax.images.sequence import Geometry, default_max_side
from yolos_jax.inference.compiled import keep_compiled
from yolos_jax.model.config import ArchitectureSettings, YolosConfig
from yolos_jax.model.init import SCHEMES
from yolos_jax.setting import part
from yolos_jax.training import checkpoint_files
from yolos_jax.weights.architecture import architecture_of, title_of
from yolos_jax.weights.starting import refuse_nothing_to_start_from

C = TypeVar("C", bound=Config)


def prepare(config: Recipe, kind: type[C]) -> C:
    """A recipe, completed and checked; its precision of matrix products becomes the process's."""
    found = read_recipe(config, kind)
    jax.config.update("jax_default_matmul_precision", found.precision)
    return found


def settle(recipe: Recipe, workdir: str | Path | None = None) -> DetectionConfig:
    """What `prepare` makes of a detector's recipe, with the architecture of its weights where it is left to them.

    The primary process looks at the weights, or at the checkpoint in `workdir` that the run goes on from.
    """
    config, processes = prepare(recipe, DetectionConfig), Processes()
    stated = {name: getattr(config.model, name) for name in stated_architecture(recipe)}
    with processes.only_primary_prints():
        mine = processes.on_primary(_left_to_weights, config, stated, workdir)
    found = processes.allgather(mine)[0] or {}
    return _with_architecture(config, {name: _tupled(value) for name, value in found.items()})


def of_checkpoint(config: DetectionConfig, model: YolosConfig, stated: Sequence[str]) -> DetectionConfig:
    """A config with the architecture of a checkpoint where it is left open, but for the settings that are `stated`."""
    left = [] if config.model.from_init == OWN else [name for name in ARCHITECTURE if name not in stated]
    return _with_architecture(config, {name: getattr(model, name) for name in left})


def _with_architecture(config: DetectionConfig, values: Mapping[str, Any]) -> DetectionConfig:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **values))


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # JSON has no tuples


def _left_to_weights(config: DetectionConfig, stated: dict[str, Any], workdir: str | Path | None) -> dict[str, Any]:
    """Settings by name of the architecture that a recipe leaves to its weights."""
    if config.model.from_init == OWN:
        return {}
    if workdir is not None and checkpoint_files.steps(workdir):  # the weights may be gone by now
        before = _architecture_before(Path(workdir))
        return {name: before[name] for name in ARCHITECTURE if name in before and name not in stated}
    refuse_nothing_to_start_from(config.init)
    if config.init in SCHEMES:
        return {}
    found = architecture_of(config.init, stated)
    print(f"model: {title_of(model_of(_with_architecture(config, found), 1))}, from the weights {config.init}")
    return found


def _architecture_before(workdir: Path) -> dict[str, Any]:
    """That of the newest checkpoint whose meta can be read; without one, resuming says what is wrong."""
    for step in reversed(checkpoint_files.steps(workdir)):
        with contextlib.suppress(Exception):  # whatever orbax raises for damaged files
            return checkpoint_files.read_meta(workdir, step).model.to_dict()
    return {}


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
    """What is done to training images; a recipe without `data.scales` does not augment."""
    data, patch = config.data, model.patch_size
    if not data.scales:
        return Pipeline.of(geometry_of(config, model))
    most = data.max_side or default_max_side(max(data.scales))
    crop = Crop(data.crop, data.crop_sides, data.crop_range, patch)
    pipeline = Pipeline(Resize(data.scales, most, patch), before=(Flip(data.flip), crop))
    Geometry.of(max(data.scales), most, patch, config.model.max_side)  # refuses what the model cannot take
    return pipeline


def plan_of(config: DetectionConfig, model: YolosConfig, sizes: np.ndarray) -> TrainingPlan:
    """Which images share a batch of training, for images of (width, height) `sizes`."""
    pipeline, train = augmentation_of(config, model), config.train
    return TrainingPlan(sizes, pipeline, train.batch_size, config.data.buckets, train.epochs, config.seed)


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
    config: DetectionConfig, model: YolosConfig, source: DataSet, mesh: Mesh, nms: float | None = None
) -> Evaluator:
    """What evaluates a model on a data set whose labels are the model's; for `nms` see `postprocess.suppressed`."""
    geometry, batching = geometry_of(config, model), batching_of(config, mesh)
    return Evaluator(model, source, geometry, batching, config.data.buckets, config.model.query_block, nms)
