"""What is trained. The loop, its checkpoints and its metrics know nothing else about it."""

import abc
import dataclasses
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import optax
from jax.sharding import Mesh

from yolos_jax.data.loader import Loaded, Share
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.training.rates import Rates
from yolos_jax.training.settings import CheckpointSettings, RunSettings
from yolos_jax.training.step import LossReport


class Evaluated(Protocol):
    """The result of an evaluation."""

    @property
    def metrics(self) -> dict[str, float]:
        """Numbers by name."""

    @property
    def details(self) -> dict[str, float]:
        """Further numbers, such as those of single categories, which only TensorBoard shows."""

    @property
    def skipped(self) -> list[str]:
        """A sentence for each image that could not be read."""


@dataclasses.dataclass(frozen=True)
class Identity:
    """What makes a run the run it is: a checkpoint records it, and resuming compares it."""

    config: dict[str, Any]  # the recipe, JSON-ready
    data: dict[str, Any]  # what tells one data set from another, wherever it lies; JSON-ready
    order: int  # version of the order of images and of their random views
    versions: dict[str, str]  # of the packages that decide a run's last bits
    model: Any  # the architecture: a `YolosConfig` or a `ClassifierConfig`
    label_names: dict[int, str]
    category_ids: tuple[int, ...] | None = None  # see `Meta`
    max_side: int = Meta.max_side

    @classmethod
    def of(cls, meta: Meta) -> "Identity":
        """What a checkpoint of a run records. `KeyError` for one of converted weights, which records no run."""
        recorded = {key: meta.extra[key] for key in ("config", "data", "order", "versions")}
        return cls(
            **recorded,
            model=meta.model,
            label_names=meta.label_names,
            category_ids=meta.category_ids,
            max_side=meta.max_side,
        )

    def meta(self, step: int, **results: Any) -> Meta:
        """The meta of a checkpoint after `step` updates, with what was measured."""
        recorded = {"config": self.config, "data": self.data, "order": self.order, "versions": self.versions}
        extra = recorded | results
        return Meta(self.model, self.label_names, step, extra, self.category_ids, self.max_side)


class Differences(NamedTuple):
    """How a run differs from the one that wrote a checkpoint; phrases such as "seed 0 against 1"."""

    model: list[str]  # another architecture, whose parameters do not fit
    fixed: list[str]  # settings whose change would make the optimizer's state useless
    others: list[str]  # what may be accepted


class Pictures(Protocol):
    """Draws what a run shows of itself, in the primary process. Trouble is said and stops nothing."""

    def draw(self, step: int, result: Evaluated | None) -> None:
        """Draws what there is after `step` updates; `result` is that of an evaluation that has just been done."""


class Task(abc.ABC):
    """Data, plan, model, loss and evaluation of one kind of training.

    Attributes:
      model: the architecture, a `YolosConfig` or a `ClassifierConfig`.
      shapes: the parameters, nested dicts of `jax.ShapeDtypeStruct`.
      plan: which images share a batch; has `steps_per_epoch`.
      optimizer, schedule: of optax; the schedule is the learning rate of every step, for the metrics.
      buckets: number of sequence lengths that the step is compiled for.
      rates: of training, those that the optimizer has; see `rates.rates_of`. None trains everything alike.
    """

    bad_images: ClassVar[str]  # what is wrong with images that the loss reports as not finite: "matching costs"
    shown: ClassVar[tuple[str, ...]]  # loss terms that the progress bar shows
    headline: ClassVar[tuple[str, ...]]  # numbers that stand for an evaluation; the first decides which is the best

    model: Any
    shapes: dict
    plan: Any
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    buckets: int
    rates: Rates | None = None

    @abc.abstractmethod
    def loss(self, params: dict, batch: Any, divisors: Any = None) -> tuple[jax.Array, LossReport]:
        """See `step.Loss`."""

    @abc.abstractmethod
    def divisors(self, batch: Any) -> Any:
        """What the terms of the loss of a whole batch are divided by."""

    @abc.abstractmethod
    def starting_params(self) -> dict:
        """Parameters to start from, as numpy arrays; called in the primary process only."""

    @abc.abstractmethod
    def batches(self, start: int, share: Share) -> Generator[Loaded]:
        """A process's share of the batches, from step `start` to the end."""

    @abc.abstractmethod
    def name_of(self, index: int) -> str:
        """What an image is called in messages, by its place in the data."""

    @abc.abstractmethod
    def evaluate(self, params: dict, cancelled: Callable[[], int]) -> Evaluated | None:
        """Scores parameters; None if `cancelled()` became true in any process, or if the run never evaluates."""

    def pictures(self, workdir: Path, say: Callable[[str], object]) -> Pictures | None:
        """Draws into a run's folder, and says with `say` what it cannot draw; None if nothing is to be drawn."""
        return None

    def remarks(self, result: Evaluated) -> dict[str, Any]:
        """What the best checkpoint records of its evaluation, besides the headline; JSON-ready."""
        return {}

    def advice(self, best: Path, meta: Meta) -> list[str]:
        """What a person may want to know, and to do, when a run has ended with this best checkpoint: lines."""
        return []

    @abc.abstractmethod
    def identity(self) -> Identity:
        """What makes this run the run it is."""

    @abc.abstractmethod
    def differences(self, before: Identity) -> Differences:
        """How this run differs from the one that wrote a checkpoint."""

    @abc.abstractmethod
    def check_alike(self) -> None:
        """`InputError` in all processes if they were not started alike."""

    @abc.abstractmethod
    def describe(self) -> list[str]:
        """What is about to happen, and what is worth knowing about the data and the recipe: lines for a person."""

    def bucket_of(self, step: int) -> int:
        """Patches that the sequences of a step's batch are padded to; 0 where all have one length."""
        return self.plan.batch(step).tokens

    @property
    @abc.abstractmethod
    def steps(self) -> int:
        """Steps of the whole run."""

    @property
    @abc.abstractmethod
    def evaluation_interval(self) -> int:
        """Steps between evaluations; 0 for none."""

    @property
    def steps_per_epoch(self) -> int:
        return self.plan.steps_per_epoch


MakeTask = Callable[[Mesh], Task]
"""Makes what is trained, for the devices that batches are split over."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run goes about it; only `train.ema`, and the rounding of `train.accumulate`, change what is computed."""

    train: RunSettings
    checkpoint: CheckpointSettings
    skip_unreadable: bool = False  # another image takes the place of one that cannot be read
    accept_differences: bool = False  # go on from a checkpoint even if the recipe or the annotations have changed
