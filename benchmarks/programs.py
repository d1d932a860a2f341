"""The measured and compiled programs: those of training and of `Detector`, for generated data.

Like `yolos-train`, it makes the step of a `DetectionTask`. A task needs only the number of images and the labels of
their boxes from its data; here, every image has one box. A test compares the step with the one that a run compiles.
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
        """Shapes and dtypes of the state that it changes."""
        ema = bool(self.task.config.train.ema)
        return jax.eval_shape(lambda params: fresh_state(params, self.task.optimizer, ema), self.task.shapes)


def made_up(images: int, size: tuple[int, int], classes: int) -> DataSet:
    """A data set without pixels: `images` of (width, height) `size`, each with a box of class 0."""
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
    """The step of a recipe, for data of one batch, so an epoch is one step."""
    config = recipe.prepare(wanted, DetectionConfig)
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, every_epochs=0))
    task = DetectionTask(config, mesh, made_up(config.train.batch_size, (640, 480), classes))
    return Step(task, step_of(task, config.train, mesh))


class Forward(NamedTuple):
    """`Detector`'s program, not yet compiled."""

    program: Any  # (parameters, patches, grid, size) -> `inference.detector.Queries`, jitted
    shapes: dict  # of the parameters
    model: YolosConfig
    compute: Compute


def forward(wanted: Recipe, devices: Sequence[Any], classes: int) -> Forward:
    """`Detector`'s program for the model of a recipe, in the recipe's precision."""
    config = recipe.prepare(wanted, DetectionConfig)
    model = recipe.model_of(config, classes)
    asked = Compute(max_side=config.model.max_side, compute_dtype=dtype_of(config.precision))
    detects, shapes, compute = program(model, asked, devices, config.precision)
    return Forward(detects, shapes, model, compute)


def batch_of(model: YolosConfig, mesh: Mesh, images: int, patches: int, boxes: int) -> TrainBatch:
    """Shapes of a batch of training, split over the devices of `mesh`."""
    shapes: Any = TrainBatch(
        Shape((images, patches, model.patch_values), jnp.uint8), Shape((images, 2), jnp.int32),
        Shape((images, boxes), jnp.int32), Shape((images, boxes, 4), jnp.float32),
        Shape((images,), jnp.int32), Shape((images,), jnp.bool_),
    )  # fmt: skip
    return placed(shapes, split_over(mesh))


def placed(shapes: Any, sharding: NamedSharding) -> Any:
    """The same shapes with this sharding."""
    return jax.tree.map(lambda x: Shape(x.shape, x.dtype, sharding=sharding), shapes)
