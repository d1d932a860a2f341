"""The interface of a training task. The loop, checkpoints and metrics depend on nothing else."""

import abc
import dataclasses
from collections.abc import Callable, Generator, Mapping
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
        """Metrics by name."""

    @property
    def details(self) -> dict[str, float]:
        """Further metrics, such as those per category, for sinks only."""

    @property
    def skipped(self) -> list[str]:
        """One message per unreadable image."""


@dataclasses.dataclass(frozen=True)
class Identity:
    """The facts that identify a run: recorded in checkpoints and compared when resuming."""

    config: dict[str, Any]  # the recipe, JSON-ready
    data: dict[str, Any]  # facts that identify a data set, regardless of its location; JSON-ready
    order: int  # version of the code that determines image order and augmentation
    versions: dict[str, str]  # versions of packages that affect results in the last bits
    model: Any  # the architecture: a `YolosConfig` or a `ClassifierConfig`
    label_names: dict[int, str]
    category_ids: tuple[int, ...] | None = None  # see `Meta`
    max_side: int = Meta.max_side

    @classmethod
    def of(cls, meta: Meta) -> "Identity":
        """Reads the identity from a run's checkpoint; `KeyError` for converted weights, which have no run."""
        facts: dict[str, Any] = {key: meta.extra[key] for key in ("config", "data", "order", "versions")}
        facts |= {"model": meta.model, "label_names": meta.label_names}
        return cls(**facts, category_ids=meta.category_ids, max_side=meta.max_side)

    def meta(self, step: int, **results: Any) -> Meta:
        """The metadata of a checkpoint after `step` updates, with the `results` of an evaluation."""
        recorded = {"config": self.config, "data": self.data, "order": self.order, "versions": self.versions}
        extra = recorded | results
        return Meta(self.model, self.label_names, step, extra, self.category_ids, self.max_side)


class Differences(NamedTuple):
    """Differences from the run that wrote a checkpoint; phrases such as "seed 0 vs. 1"."""

    model: list[str]  # differences in architecture, so that parameters do not fit
    fixed: list[str]  # settings whose change would invalidate the optimizer's state
    others: list[str]  # differences that may be accepted


class Sink(Protocol):
    """Receives the curves of a run, in the primary process."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each named curve; an `OSError` ends the run."""

    def close(self) -> None:
        """Writes any buffered values and closes the sink."""


class Pictures(Protocol):
    """Draws the images of a run, in the primary process. A failure is reported but does not stop the run."""

    def draw(self, step: int, result: Evaluated | None) -> None:
        """Draws the state after `step` updates; `result` is from the evaluation just completed, if any."""


class Task(abc.ABC):
    """The data, plan, model, loss and evaluation of one training task.

    Attributes:
      model: the architecture, a `YolosConfig` or a `ClassifierConfig`.
      shapes: the parameters, nested dicts of `jax.ShapeDtypeStruct`.
      plan: the batches; has `steps_per_epoch`.
      optimizer, schedule: from optax; the schedule is the learning rate of every step, for the metrics.
      buckets: number of sequence lengths that the step is compiled for.
      rates: the optimizer's factors, see `rates.rates_of`; None trains all parameters at the same rate.
    """

    bad_images: ClassVar[str]  # name of the values that are not finite in bad images, such as "matching costs"
    shown: ClassVar[tuple[str, ...]]  # loss terms in the progress bar
    headline: ClassVar[tuple[str, ...]]  # main metrics of an evaluation; the first determines the best checkpoint

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
        """The divisors of the loss terms of a whole batch."""

    @abc.abstractmethod
    def starting_params(self) -> dict:
        """The initial parameters, as numpy arrays; called in the primary process only."""

    @abc.abstractmethod
    def batches(self, start: int, share: Share) -> Generator[Loaded]:
        """A process's share of the batches, from step `start` to the end."""

    @abc.abstractmethod
    def name_of(self, index: int) -> str:
        """The name of an image in messages, by its index in the data."""

    @abc.abstractmethod
    def evaluate(self, params: dict, cancelled: Callable[[], int]) -> Evaluated | None:
        """Evaluates parameters; None if `cancelled()` became true in any process, or if the run never evaluates."""

    def pictures(self, workdir: Path, say: Callable[[str], object]) -> Pictures | None:
        """Draws images in a run's folder, and reports failures with `say`; None if drawing is disabled."""
        return None

    def sink(self, workdir: Path, start: int, say: Callable[[str], object]) -> Sink | None:
        """Opens a sink for the curves after `start` steps, if any; the sink reports failures of `add` with `say`."""
        return None

    def remarks(self, result: Evaluated) -> dict[str, Any]:
        """Results of an evaluation to record in the best checkpoint, besides the headline; JSON-ready."""
        return {}

    def advice(self, best: Path, meta: Meta) -> list[str]:
        """Hints for the user, one per line, after a run has ended with this best checkpoint."""
        return []

    @abc.abstractmethod
    def identity(self) -> Identity:
        """The facts that identify this run."""

    @abc.abstractmethod
    def differences(self, before: Identity) -> Differences:
        """Differences from the run that wrote a checkpoint."""

    @abc.abstractmethod
    def check_alike(self) -> None:
        """Raises `InputError` in all processes if their recipes, data or package versions differ."""

    @abc.abstractmethod
    def describe(self) -> list[str]:
        """A description of the run, the data and the recipe for the user, one sentence per line."""

    def bucket_of(self, step: int) -> int:
        """Padded length of a step's sequences in patches; 0 if all have the same length."""
        return self.plan.batch(step).tokens

    @property
    @abc.abstractmethod
    def steps(self) -> int:
        """Number of steps in the whole run."""

    @property
    @abc.abstractmethod
    def evaluation_interval(self) -> int:
        """Steps between evaluations; 0 if the run never evaluates."""

    @property
    def steps_per_epoch(self) -> int:
        return self.plan.steps_per_epoch


MakeTask = Callable[[Mesh], Task]  # creates the task for the devices that batches are split over


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a run; only `train.ema` and, through rounding, `train.accumulate` affect the computation."""

    train: RunSettings
    checkpoint: CheckpointSettings
    skip_unreadable: bool = False  # use another image in place of an unreadable one
    accept_differences: bool = False  # resume even if the recipe or the annotations have changed
