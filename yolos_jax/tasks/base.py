"""What the tasks have in common: how a recipe's run is described, compared and scored."""

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
from yolos_jax.training.optimizer import make_optimizer, schedule_of
from yolos_jax.training.rates import Rates
from yolos_jax.training.settings import RunSettings, ScheduleSettings
from yolos_jax.training.task import Differences, Evaluated, Identity, Options, Pictures, Task

S = TypeVar("S")
# Packages that decide a run's last bits.
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")


class RecipeTask(Task):
    """A task whose run a recipe describes.

    Attributes, besides those of `Task`:
      config: the recipe, complete and checked.
      source: the data set to train on.
      evaluator: scores parameters on the validation split; None if the run never evaluates.
    """

    config: Config
    source: Any
    evaluator: Any

    def _set_optimizer(self, optimizer: ScheduleSettings, rates: Rates | None = None) -> None:
        """The schedule and the optimizer, from the `optimizer` part of the recipe."""
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
        """Version of the order of images and of their random views."""

    @abc.abstractmethod
    def work(self, share: Share) -> LoadStep:
        """Step number -> batch: what a data worker does for a process's share."""

    def evaluate(self, params: dict, cancelled: Callable[[], int]) -> Evaluated | None:
        return self.evaluator.until_cancelled(params, cancelled) if self.evaluator else None

    def pictures(self, workdir: Path, say: Callable[[str], object]) -> Pictures | None:
        return RunPictures(workdir, self.kinds_of_pictures(workdir), say)

    def kinds_of_pictures(self, workdir: Path) -> list[Picture]:
        """What a run draws into its folder."""
        return [Curves(workdir, self.shown, self.headline)]

    @abc.abstractmethod
    def data_facts(self, source: Any) -> dict[str, Any]:
        """What tells one data set from another, wherever it lies."""

    @abc.abstractmethod
    def label_names(self) -> dict[int, str]:
        """Names of the model's labels."""

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """See `run_facts`; computed once, since a fingerprint goes through the whole data set."""
        return run_facts(self.config, self.data_facts(self.source), self.data_order)

    def identity(self) -> Identity:
        return Identity(**self.facts, model=self.model, label_names=self.label_names())

    def differences(self, before: Identity) -> Differences:
        now = self.identity()
        fixed = setting_differences(before.config, now.config, never=True)
        others = setting_differences(before.config, now.config)
        return Differences(self.other_model(before.model), fixed, others + self.other_data(before))

    def other_model(self, before: Any) -> list[str]:
        """How a checkpoint's architecture differs from this one."""
        return before.differences(self.model)

    @abc.abstractmethod
    def other_data(self, before: Identity) -> list[str]:
        """How the data of the run that wrote a checkpoint differ."""

    def check_alike(self) -> None:
        validation = self.data_facts(self.evaluator.source) if self.evaluator else None
        refuse_unequal(Processes().allgather(self.facts | {"validation": validation}))


def options_of(config: Config, accept_differences: bool = False) -> Options:
    """How a recipe's run goes about its training; `InputError` if it has patience and is never evaluated."""
    patience = config.train.patience
    if patience and not config.eval.every_epochs:
        raise InputError(
            f"train.patience is {patience} and eval.every_epochs 0, so no evaluation would ever end the run; set "
            "--config.eval.every_epochs, or --config.train.patience=0."
        )
    skip = config.data.on_bad_image == "skip"
    return Options(config.train, config.checkpoint, skip, accept_differences)


def run_facts(config: Config, data: dict[str, Any], order: int = 0) -> dict[str, Any]:
    """What makes a recipe's run, or its evaluation, what it is; JSON-ready."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"config": to_json(config), "data": data, "order": order, "versions": versions}


def refuse_unequal(facts: Sequence[Mapping[str, Any]]) -> None:
    """`InputError` if processes were not started alike: `run_facts` of each, but for a host's own settings."""
    first = facts[0]
    for i, other in enumerate(facts[1:], 1):
        found = setting_differences(other["config"], first["config"], hosts=True)
        for key, value in first.items():
            if key != "config" and other[key] != value:
                found.append(f"{key} {other[key]} against {value}")
        if found:
            raise InputError(
                f"process {i} was started with something else than process 0: {'; '.join(found)}. Give all processes "
                "of a run the same recipe, data and packages."
            )


def beside_training(open_split: Callable[[], S]) -> S:
    """The validation split that `open_split` opens; `MissingSplit` says how to train without one."""
    try:
        return open_split()
    except MissingSplit as error:
        without = "--config.eval.every_epochs=0 --config.train.patience=0"
        remedy = f"Set --config.data.val_split, or train without evaluation: {without}."
        raise MissingSplit(f"{error} {remedy}") from error


def check_batch(train: RunSettings, devices: int, multiple: int, reason: str) -> None:
    """`InputError` for a batch size that is not a multiple of `multiple`, which follows from what the error lists."""
    if train.batch_size % multiple:
        raise InputError(
            f"train.batch_size {train.batch_size} must be a multiple of {multiple} ({devices} device(s), "
            f"train.accumulate {train.accumulate}{reason})."
        )


def plan_sentence(task: RecipeTask) -> str:
    """How long a run is, and when it is evaluated."""
    epochs = -(-task.steps // task.plan.steps_per_epoch)
    parts = [counted(epochs, "epoch"), f"{task.steps:,} steps"]
    patience = task.config.train.patience
    interval = task.evaluation_interval
    if interval >= task.steps:
        parts.append("an evaluation at the end")
    elif interval:
        parts.append(f"an evaluation every {interval:,}")
    if patience:
        parts.append(f"an end after {counted(patience, 'evaluation')} without gain")
    return f"the plan: {', '.join(parts)}"


def frozen_note(params: dict, rates: Rates | None, patterns: Sequence[str]) -> tuple[str, ...]:
    """A sentence on what is not trained, if there is something."""
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
    """The start of a run's description: `what` it trains on, devices, processes, steps."""
    count = Processes().count
    processes = f" in {count} processes" if count > 1 else ""
    return (
        f"training on {what}, {devices} device(s){processes}: {task.steps} steps, {task.plan.steps_per_epoch} in an "
        f"epoch, which leaves out {task.plan.dropped} images"
    )
