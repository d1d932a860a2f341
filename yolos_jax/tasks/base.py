"""Code shared by the tasks: the base class, and functions that describe, check and compare runs."""

import abc
import functools
import importlib.metadata
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import optax

from yolos_jax.config.reader import setting_differences, to_json
from yolos_jax.config.recipes import Config
from yolos_jax.data.loader import Loaded, LoadStep, Share, load_batches
from yolos_jax.datasets.splits import MissingSplit
from yolos_jax.distributed.processes import Processes
from yolos_jax.errors import InputError, counted
from yolos_jax.tasks.pictures.curves import Curves
from yolos_jax.tasks.pictures.run_pictures import Picture, RunPictures
from yolos_jax.tasks.sinks.services import check_installed, open_sinks
from yolos_jax.training.optimizer import make_optimizer, schedule_of
from yolos_jax.training.rates import Rates
from yolos_jax.training.settings import RunSettings, ScheduleSettings
from yolos_jax.training.task import Differences, Evaluated, Identity, Options, Pictures, Sink, Task

S = TypeVar("S")
# Packages whose versions may change the last bits of a run's results.
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")


class RecipeTask(Task):
    """A task defined by a recipe.

    Attributes, in addition to those of `Task`:
      config: the complete, validated recipe.
      source: the data set to train on.
      evaluator: evaluates parameters on the validation split; None if the run never evaluates.
    """

    config: Config
    source: Any
    evaluator: Any

    def _set_optimizer(self, optimizer: ScheduleSettings, rates: Rates | None = None) -> None:
        """Creates the schedule and the optimizer from the recipe's `optimizer` settings."""
        self.schedule: optax.Schedule = schedule_of(optimizer, self.plan.epochs, self.plan.steps_per_epoch)
        decay, clip = optimizer.weight_decay, optimizer.clip_norm
        self.optimizer = make_optimizer(optimizer.name, self.schedule, decay, clip, rates)
        self.rates = rates

    @property
    def steps(self) -> int:
        most = self.config.train.max_steps
        return min(len(self.plan), most) if most else len(self.plan)

    def batches(self, start: int, share: Share) -> Generator[Loaded]:
        data = self.config.data
        return load_batches(self.work(share), start, self.steps, data.workers, data.ahead)

    @property
    def evaluation_interval(self) -> int:
        every = self.config.eval.every_epochs * self.plan.steps_per_epoch
        return max(every, self.config.eval.least_steps) if every else 0

    @property
    @abc.abstractmethod
    def data_order(self) -> int:
        """Version of the algorithm that shuffles the images and samples their random augmentations."""

    @abc.abstractmethod
    def work(self, share: Share) -> LoadStep:
        """The function that data workers call. It maps a step number to this process's share of the batch."""

    def evaluate(self, params: dict, cancelled: Callable[[], int]) -> Evaluated | None:
        return self.evaluator.until_cancelled(params, cancelled) if self.evaluator else None

    def pictures(self, workdir: Path, say: Callable[[str], object]) -> Pictures | None:
        return RunPictures(workdir, self.kinds_of_pictures(workdir), say)

    def sink(self, workdir: Path, start: int, say: Callable[[str], object]) -> Sink:
        return open_sinks(workdir, start, self.config.train.log, to_json(self.config), say)

    def kinds_of_pictures(self, workdir: Path) -> list[Picture]:
        """The figures that a run saves to its folder."""
        return [Curves(workdir, self.shown, self.headline)]

    @abc.abstractmethod
    def data_facts(self, source: Any) -> dict[str, Any]:
        """Properties that identify a data set, regardless of where it is stored."""

    @abc.abstractmethod
    def label_names(self) -> dict[int, str]:
        """Maps each of the model's labels to its name."""

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """See `run_facts`. Cached, because computing the fingerprint reads the whole data set."""
        return run_facts(self.config, self.data_facts(self.source), self.data_order)

    def identity(self) -> Identity:
        return Identity(**self.facts, model=self.model, label_names=self.label_names())

    def differences(self, before: Identity) -> Differences:
        now = self.identity()
        fixed = setting_differences(before.config, now.config, never=True)
        others = setting_differences(before.config, now.config)
        return Differences(self.other_model(before.model), fixed, others + self.other_data(before))

    def other_model(self, before: Any) -> list[str]:
        """Lists the differences between a checkpoint's architecture and this one."""
        return before.differences(self.model)

    @abc.abstractmethod
    def other_data(self, before: Identity) -> list[str]:
        """Lists the differences between this run's data and the data of the run that wrote a checkpoint."""

    def check_alike(self) -> None:
        validation = self.data_facts(self.evaluator.source) if self.evaluator else None
        refuse_unequal(Processes().allgather(self.facts | {"validation": validation}))


def options_of(config: Config, accept_differences: bool = False) -> Options:
    """The options of a run. Raises `InputError` if patience is set without evaluations or a logger is missing."""
    Processes().on_primary(check_installed, config.train.log)
    patience = config.train.patience
    if patience and not config.eval.every_epochs:
        raise InputError(
            f"train.patience {patience} needs evaluations, but eval.every_epochs is 0; set --config.eval.every_epochs "
            "or --config.train.patience=0."
        )
    skip = config.data.on_bad_image == "skip"
    return Options(config.train, config.checkpoint, skip, accept_differences)


def run_facts(config: Config, data: dict[str, Any], order: int = 0) -> dict[str, Any]:
    """JSON-serialisable properties that identify a run or an evaluation."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"config": to_json(config), "data": data, "order": order, "versions": versions}


def refuse_unequal(facts: Sequence[Mapping[str, Any]]) -> None:
    """Raises `InputError` if the `run_facts` of the processes differ, except in host-specific settings."""
    first = facts[0]
    for i, other in enumerate(facts[1:], 1):
        found = setting_differences(other["config"], first["config"], hosts=True)
        for key, value in first.items():
            if key != "config" and other[key] != value:
                found.append(f"{key} {other[key]} vs. {value}")
        if found:
            raise InputError(
                f"process {i} does not match process 0: {'; '.join(found)}. Start all processes of a run with the "
                "same recipe, data and packages."
            )


def beside_training(open_split: Callable[[], S]) -> S:
    """Opens the validation split; if it is missing, the error explains how to train without one."""
    try:
        return open_split()
    except MissingSplit as error:
        without = "--config.eval.every_epochs=0 --config.train.patience=0"
        remedy = f"Set --config.data.val_split, or train without evaluation: {without}."
        raise MissingSplit(f"{error} {remedy}") from error


def check_batch(train: RunSettings, devices: int, multiple: int, reason: str) -> None:
    """Raises `InputError` if the batch size is not a multiple of `multiple`; `reason` is added to the message."""
    if train.batch_size % multiple:
        raise InputError(
            f"train.batch_size {train.batch_size} must be a multiple of {multiple} ({counted(devices, 'device')}, "
            f"train.accumulate {train.accumulate}{reason})."
        )


def plan_sentence(task: RecipeTask) -> str:
    """One-line summary of a run's length and evaluation schedule."""
    epochs = -(-task.steps // task.plan.steps_per_epoch)
    parts = [counted(epochs, "epoch"), f"{task.steps:,} steps"]
    patience = task.config.train.patience
    interval = task.evaluation_interval
    if interval >= task.steps:
        parts.append("an evaluation at the end")
    elif interval:
        parts.append(f"an evaluation every {interval:,} steps")
    if patience:
        parts.append(f"early stopping after {counted(patience, 'evaluation')} without improvement")
    return f"plan: {', '.join(parts)}"


def frozen_note(params: dict, rates: Rates | None, patterns: Sequence[str]) -> tuple[str, ...]:
    """A note about frozen parameters, if there are any."""
    if rates is None:
        return ()
    sizes = jax.tree.map(lambda x: math.prod(x.shape), params)
    frozen = jax.tree.map(lambda size, rate: round(size * float((rate == 0).mean())), sizes, rates)
    total = jax.tree.reduce(int.__add__, sizes)
    count = jax.tree.reduce(int.__add__, frozen)
    if not count:
        return ()
    return (f"{count:,} of {total:,} parameters are not trained: {', '.join(patterns)}",)


def steps_sentence(what: str, task: RecipeTask, devices: int) -> str:
    """The first line of a run's description: the data (`what`), devices, processes and steps."""
    count = Processes().count
    processes = f" in {count} processes" if count > 1 else ""
    return (
        f"training on {what}, {counted(devices, 'device')}{processes}: {task.steps} steps, "
        f"{task.plan.steps_per_epoch} per epoch, with {task.plan.dropped} images left over"
    )
