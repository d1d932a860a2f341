"""The programs that the benchmarks compile: the training step and the forward pass of `Detector`, for generated data.

The training step is created from a `DetectionTask`, as in `yolos-train`. The only properties of the data that a task
needs are the number of images and the labels of their boxes; here, every image has one box. A test compares the step
with that of a real run.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from yolos_jax.accelerators.precision import dtype_of
from yolos_jax.config.recipes import DetectionConfig, Recipe
from yolos_jax.data.examples import Example, ExampleTable, TrainBatch
from yolos_jax.datasets.dataset import DataSet
from yolos_jax.datasets.orientation import ExifDecision
from yolos_jax.distributed.mesh import split_over
from yolos_jax.inference.detector import program
from yolos_jax.model.config import Compute, YolosConfig
from yolos_jax.tasks import recipe
from yolos_jax.tasks.detection import DetectionTask
from yolos_jax.training.run import step_of
from yolos_jax.training.step import TrainState, fresh_state

Shape: Any = jax.ShapeDtypeStruct


class Step(NamedTuple):
    """A recipe's training step, not yet compiled."""

    task: DetectionTask
    program: Any  # (state, batch) -> (state, report), jitted

    @property
    def state(self) -> TrainState:
        """Shapes and dtypes of the training state."""
        ema = bool(self.task.config.train.ema)
        return jax.eval_shape(lambda params: fresh_state(params, self.task.optimizer, ema), self.task.shapes)


def made_up(images: int, size: tuple[int, int], classes: int) -> DataSet:
    """A data set without pixels: `images` images of `size` (width, height), each with one box of class 0."""
    width, height = size
    box = np.array([[0, 0, width, height]], np.float32)
    label, area = np.zeros(1, np.int32), np.array([width * height], np.float32)
    examples = [Example(i, f"{i}.jpg", width, height, box, label, area) for i in range(images)]
    return DataSet(
        examples=ExampleTable(examples), label_names={i: str(i) for i in range(classes)},
        category_ids=tuple(range(classes)), num_classes=classes, layout="made up", origin="made-up data",
        image_folder=Path(), notes=(), dropped={"crowd": 0, "empty": 0}, clipped=0, exif=ExifDecision(), stretch=False,
        content=None,
    )  # fmt: skip


def training_step(wanted: Recipe, mesh: Mesh, classes: int) -> Step:
    """The training step of a recipe, for a data set of one batch."""
    config = recipe.prepare(wanted, DetectionConfig)
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, every_epochs=0))
    task = DetectionTask(config, mesh, made_up(config.train.batch_size, (640, 480), classes))
    return Step(task, step_of(task, config.train, mesh))


class Forward(NamedTuple):
    """The program of `Detector`, not yet compiled."""

    program: Any  # (parameters, patches, grid, size) -> `inference.detector.Queries`, jitted
    shapes: dict  # shapes and dtypes of the parameters
    model: YolosConfig
    compute: Compute


def forward(wanted: Recipe, devices: Sequence[Any], classes: int) -> Forward:
    """The program of `Detector` for the model and the precision of a recipe."""
    config = recipe.prepare(wanted, DetectionConfig)
    model = recipe.model_of(config, classes)
    asked = Compute(max_side=config.model.max_side, compute_dtype=dtype_of(config.precision))
    detects, shapes, compute = program(model, asked, devices, config.precision)
    return Forward(detects, shapes, model, compute)


def batch_of(model: YolosConfig, mesh: Mesh, images: int, patches: int, boxes: int) -> TrainBatch:
    """Shapes of a training batch, sharded over the devices of `mesh`."""
    shapes: Any = TrainBatch(
        Shape((images, patches, model.patch_values), jnp.uint8), Shape((images, 2), jnp.int32),
        Shape((images, boxes), jnp.int32), Shape((images, boxes, 4), jnp.float32),
        Shape((images,), jnp.int32), Shape((images,), jnp.bool_),
    )  # fmt: skip
    return placed(shapes, split_over(mesh))


def placed(shapes: Any, sharding: NamedSharding) -> Any:
    """The same shapes with this sharding."""
    return jax.tree.map(lambda x: Shape(x.shape, x.dtype, sharding=sharding), shapes)
