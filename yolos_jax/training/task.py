"""What is trained. The loop, its checkpoints and its metrics know nothing else about it."""

import dataclasses
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from yolos_jax.checkpoints import Meta
from yolos_jax.data.loader import Loaded, Share


class LossReport(NamedTuple):
    """What a loss function says besides its value.

    Attributes:
      terms: scalars by name, of this batch or part of a batch; those of the parts add up to the whole's.
      finite: bool `[B]`, False for images that numbers went bad for.
      measured: scalars by name that are no part of the mathematics, such as milliseconds; they add up, too.
    """

    terms: dict[str, jax.Array]
    finite: jax.Array
    measured: dict[str, jax.Array]


Loss = Callable[..., tuple[jax.Array, LossReport]]
"""(params, batch, divisors=None) -> (scalar to minimise, report).

`divisors`: what a larger batch's terms are divided by, of which this batch is a part; None: this is all of it.
"""


class Evaluated(Protocol):
    """The result of an evaluation: numbers by name, and a sentence for each image that could not be read."""

    @property
    def metrics(self) -> dict[str, float]: ...

    @property
    def skipped(self) -> list[str]: ...


@dataclasses.dataclass(frozen=True)
class Task:
    """Data source, plan, loss and evaluator of one kind of training, and how its checkpoints are described.

    Attributes:
      shapes: the parameters, a nested dict of things with `.shape` and `.dtype`.
      starting_params: makes the parameters to start from, numpy; called in the primary process only.
      loss, divisors: see `training.step.make_gradient`.
      optimizer: optax's.
      schedule: learning rate of every step, which the metrics show.
      load: (first step, share) -> the batches from there to the end, see `data.loader.load`.
      total, per_epoch: steps of the run and of an epoch.
      buckets: number of sequence lengths that the step is compiled for.
      image_ids: int64, of every example by its place in the data.
      bad_images: what is wrong with images that the loss reports as not finite.
      shown: names of the loss terms that the progress bar shows.
      evaluate: (params, cancelled) -> `Evaluated`, or None if `cancelled()` became true in any process; None: never.
      headline: names of the numbers that stand for an evaluation; the first one decides which is the best.
      facts: what makes this run the run it is, JSON-ready: "config", "data", "versions", see `training.resume`.
      validation: what the processes must have in common besides `facts`.
      compare: (meta of a checkpoint) -> sentences on how its model is another.
      meta: (step, extra) -> what a checkpoint says about itself.
      description: what is about to happen, for a person.
      notes: what is worth knowing about the data, a sentence each.
    """

    shapes: dict
    starting_params: Callable[[], dict]
    loss: Loss
    divisors: Callable[[Any], Any]
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    load: Callable[[int, Share], Generator[Loaded]]
    total: int
    per_epoch: int
    buckets: int
    image_ids: np.ndarray
    bad_images: str
    shown: tuple[str, ...]
    evaluate: Callable[[dict, Callable[[], int]], Evaluated | None] | None
    headline: tuple[str, ...]
    facts: dict[str, Any]
    validation: dict[str, Any]
    compare: Callable[[Meta], list[str]]
    meta: Callable[[int, dict[str, Any]], Meta]
    description: str
    notes: tuple[str, ...]


MakeTask = Callable[[Mesh], Task]
"""Makes what is trained, for the devices that batches are split over."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run goes about it; none of these decides what is computed, but for `ema` and `accumulate`'s rounding.

    Attributes:
      accumulate: parts that a batch is computed in.
      ema: decay of the moving average of the parameters; 0 for none.
      log_every: steps between lines of the metrics.
      save_every: steps between checkpoints.
      keep: latest checkpoints that stay.
      evaluate_every: epochs between evaluations; 0 for none.
      skip_unreadable: another image takes the place of one that cannot be read.
      accept_differences: go on from a checkpoint even if the recipe or the annotations are not what they were.
    """

    accumulate: int = 1
    ema: float = 0.0
    log_every: int = 50
    save_every: int = 1000
    keep: int = 3
    evaluate_every: int = 1
    skip_unreadable: bool = False
    accept_differences: bool = False
