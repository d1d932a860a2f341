"""What is trained. The loop, its checkpoints and its metrics know nothing else about it."""

import dataclasses
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Protocol

import jax
import optax
from jax.sharding import Mesh

from yolos_jax.data.loader import Loaded, Share
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.training.rates import Rates


class LossReport(NamedTuple):
    """What a loss function says besides its value, of a batch or of a part of it; the parts' numbers add up."""

    terms: dict[str, jax.Array]  # scalars by name
    finite: jax.Array  # bool `[B]`, False for images that numbers went bad for
    measured: dict[str, jax.Array]  # scalars that are no part of the mathematics, such as milliseconds


Loss = Callable[..., tuple[jax.Array, LossReport]]
"""(params, batch, divisors=None) -> (scalar to minimise, report).

`divisors`: what a larger batch's terms are divided by, of which this batch is a part; None: this is all of it.
"""


class Evaluated(Protocol):
    """The result of an evaluation: numbers by name, and a sentence for each image that could not be read.

    `details` are further numbers, such as those of single classes, which only TensorBoard shows.
    """

    @property
    def metrics(self) -> dict[str, float]: ...

    @property
    def details(self) -> dict[str, float]: ...

    @property
    def skipped(self) -> list[str]: ...


@dataclasses.dataclass(frozen=True)
class Task:
    """Data source, plan, loss and evaluator of one kind of training, and how its checkpoints are described."""

    shapes: dict  # the parameters: nested dicts of things with `.shape` and `.dtype`
    starting_params: Callable[[], dict]  # numpy; called in the primary process only
    loss: Loss
    divisors: Callable[[Any], Any]  # (batch) -> what the loss of the whole batch is divided by
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule  # learning rate of every step, for the metrics
    load: Callable[[int, Share], Generator[Loaded]]  # (first step, share) -> the batches from there to the end
    total: int  # steps of the run
    per_epoch: int  # steps of an epoch
    buckets: int  # number of sequence lengths that the step is compiled for
    name_of: Callable[[int], str]  # what an image is called in messages, by its place in the data
    bad_images: str  # what is wrong with images that the loss reports as not finite, such as "matching costs"
    shown: tuple[str, ...]  # loss terms that the progress bar shows
    # (params, cancelled) -> the result, or None if `cancelled()` became true in any process; None: never evaluates
    evaluate: Callable[[dict, Callable[[], int]], Evaluated | None] | None
    headline: tuple[str, ...]  # numbers that stand for an evaluation; the first one decides which is the best
    facts: dict[str, Any]  # JSON-ready: "config", "data", "order" and "versions" make this run the run it is
    validation: dict[str, Any]  # what the processes must have in common besides `facts`
    compare: Callable[[Meta], list[str]]  # sentences on how a checkpoint's model is another
    other_data: Callable[[Meta], list[str]]  # sentences on how the run that wrote a checkpoint had other data
    meta: Callable[[int, dict[str, Any]], Meta]  # (step, extra) -> what a checkpoint says about itself
    description: str  # what is about to happen, for a person
    notes: tuple[str, ...]  # what is worth knowing about the data and the recipe, a sentence each
    rates: Rates | None = None  # of training, those that the optimizer has


MakeTask = Callable[[Mesh], Task]
"""Makes what is trained, for the devices that batches are split over."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run goes about it; only `ema`, and the rounding of `accumulate`, change what is computed."""

    accumulate: int  # parts that a batch is computed in
    ema: float  # decay of the moving average of the parameters; 0 for none
    log_every: int  # steps between lines of the metrics
    save_every: int  # steps between checkpoints
    keep: int  # latest checkpoints that stay
    evaluate_every: int  # epochs between evaluations; 0 for none
    curves: bool  # draw curves.png
    skip_unreadable: bool  # another image takes the place of one that cannot be read
    accept_differences: bool  # go on from a checkpoint even if the recipe or the annotations are not what they were
