"""The training loop: batches, step, metrics, checkpoints, evaluation."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from yolos_jax.data.loader import Share
from yolos_jax.distributed.mesh import data_mesh, replicated, split_over
from yolos_jax.distributed.processes import Processes, place
from yolos_jax.errors import InputError, make_folder
from yolos_jax.training.curves import Curves
from yolos_jax.training.failures import print_summary, saves_on_failure
from yolos_jax.training.metrics import Metrics
from yolos_jax.training.prefetch import Batches
from yolos_jax.training.rates import make_average, make_hold
from yolos_jax.training.resume import begin, refuse_unequal
from yolos_jax.training.saving import Checkpoints
from yolos_jax.training.signals import Signals, only_run_in
from yolos_jax.training.step import BucketedStep, make_gradient, make_step
from yolos_jax.training.task import Evaluated, MakeTask, Options


class Outcome(NamedTuple):
    """How a run ended."""

    workdir: Path
    step: int  # updates done in all
    signal: int  # number of the signal that ended it early, or 0
    compiled: tuple[int, ...]  # patches of the buckets that the step was compiled for, in this order
    padding: float  # share of the patches of this process's steps that were padding


def train(
    make_task: MakeTask, workdir: str | Path, options: Options, devices: Sequence[jax.Device] | None = None
) -> Outcome:
    """Trains, going on from the workdir's newest checkpoint if it has one.

    The workdir gets checkpoints (the latest, the best in `best/`), `metrics.jsonl`, `tensorboard/` and `curves.png`.

    Args:
      make_task: makes what is trained, for the devices that batches are split over.
      devices: all by default; a run may go on with others than it began with.

    Raises:
      InputError: bad input, a disk that is full, a data worker that died, or numbers that are no longer finite.
    """
    with start(make_task, Path(workdir), options, devices) as run:
        run.evaluate()  # a kill may have come between a checkpoint and its evaluation
        for batch in run.batches:  # until the last step or a signal, which all processes see at the same step
            run.state, report = run.step(run.state, batch)
            run.done = batch.step + 1
            run.metrics.step(batch, report, run.batches.waited)
            if run.is_save_due():
                run.save()
                run.evaluate()
        run.save()
    return Outcome(run.workdir, run.done, run.signals.number, tuple(run.step.programs), run.metrics.padding)


@contextlib.contextmanager
def start(
    make_task: MakeTask, workdir: Path, options: Options, devices: Sequence[jax.Device] | None
) -> Iterator["Run"]:
    """A run ready to train: alone in its folder, its files open, its data on the way; at the end, its summary."""
    processes, mesh = Processes(), data_mesh(devices)
    if processes.count > 1 and devices is not None:
        raise InputError("several processes train on all of their devices; leave `devices` out.")
    with Signals() as signals, processes.only_primary_prints():
        with contextlib.ExitStack() as stack:
            processes.on_primary(lambda: stack.enter_context(only_run_in(make_folder(workdir))))
            run = Run(processes.agree(make_task, mesh), workdir, options, processes, signals)
            state, run.done = begin(workdir, run.task, options, processes)
            run.state = place(state, replicated(mesh))
            print(run.task.description, *(f"note: {note}" for note in run.task.notes), sep="\n")
            processes.agree(run.open, stack, mesh)
            run.evaluations = processes.allgather(run.metrics.evaluations(run.task.headline))[0]
            with saves_on_failure(run):
                yield run
            processes.agree(run.checkpoints.wait)
        print_summary(run)


class Run:
    """What changes while a run trains, and what follows a step: checkpoints and evaluations."""

    state: Any
    done: int  # updates
    evaluations: list[dict[str, Any]]  # step and headline numbers of those that are finished

    def __init__(self, task: Any, workdir: Path, options: Options, processes: Processes, signals: Signals):
        refuse_unequal(processes.allgather(task.facts | task.validation))
        self.task, self.workdir, self.options, self.processes, self.signals = task, workdir, options, processes, signals

    def open(self, stack: contextlib.ExitStack, mesh: jax.sharding.Mesh) -> None:
        """Opens files and data, which `stack` closes."""
        task, options, processes = self.task, self.options, self.processes
        self.checkpoints = stack.enter_context(Checkpoints(self.workdir, options.keep, processes.is_primary))
        self.metrics = stack.enter_context(Metrics(self.workdir, task, options.log_every, self.done, processes))
        draws = options.curves and processes.is_primary
        self.curves = Curves(self.workdir, task.shown, task.headline, self.metrics.say if draws else None)
        gradient = make_gradient(task.loss, task.divisors, mesh, options.accumulate, make_hold(task.rates))
        step = make_step(gradient, task.optimizer, mesh, make_average(options.ema, task.rates))
        self.step = BucketedStep(step, task, processes, self.metrics.say)
        loaded = task.load(self.done, Share(processes.index, processes.count))
        batches = Batches(loaded, split_over(mesh), processes, self.signals, options.skip_unreadable)
        self.batches = stack.enter_context(batches)

    def is_save_due(self) -> bool:
        """Whether a checkpoint follows this step."""
        at_end = self.done == self.task.total
        return at_end or self.done % self.options.save_every == 0 or self.is_evaluation_due()

    def is_evaluation_due(self) -> bool:
        """Whether this step is one to be evaluated, every so many epochs and at the end, and has not been."""
        every = self.options.evaluate_every * self.task.per_epoch
        due = every and self.done and (self.done % every == 0 or self.done == self.task.total)
        return bool(due) and all(e["step"] != self.done for e in self.evaluations)

    def save(self) -> None:
        """Starts to write a checkpoint of what has been done, if it is sound and not there yet."""
        self.step.check()
        if self.done:
            meta = self.task.meta(self.done, self.task.facts | {"evaluations": [*self.evaluations]})
            self.processes.agree(self.checkpoints.save, self.done, self.state, meta)

    def evaluate(self) -> None:
        """Evaluates this step if that is due, unless a signal comes; keeps it if it is the best so far."""
        if self.task.evaluate is None or not self.is_evaluation_due():
            return
        params = self.state.params if self.state.ema is None else self.state.ema
        with self.metrics.paused():
            result = self.task.evaluate(params, self.signals.vote)
        if result is not None:
            numbers = {name: result.metrics[name] for name in self.task.headline}
            self.evaluations.append({"step": self.done, **numbers})
            self.processes.on_primary(self._keep_evaluation, params, result, numbers)

    def _keep_evaluation(self, params: dict, result: Evaluated, numbers: dict[str, float]) -> None:
        """Writes down the newest evaluation, and the parameters if they are the best so far."""
        name = self.task.headline[0]
        meta = self.task.meta(self.done, self.task.facts | {"evaluations": [*self.evaluations], name: numbers[name]})
        best = self.checkpoints.save_if_best(self.done, params, meta, name)
        # Last of what is written: such a step needs no evaluation any more.
        self.metrics.write(self.done, result.metrics, "val/", result.details)
        unreadable = f"; {len(result.skipped)} images unreadable" if result.skipped else ""
        found = ", ".join(f"{k} {v:.4f}" for k, v in numbers.items() if v >= 0) or "nothing to score"
        self.metrics.say(f"step {self.done}: {found}, {best}{unreadable}")
        with self.metrics.paused():
            self.curves.draw()
