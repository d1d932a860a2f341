"""The training loop."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from yolos_jax import checkpoints
from yolos_jax.distributed.processes import LostProcess, Team, told_if_lost
from yolos_jax.errors import InputError, make_folder
from yolos_jax.evaluation.evaluator import Evaluation
from yolos_jax.training.keeper import BEST, Keeper, best_so_far
from yolos_jax.training.metrics import Log
from yolos_jax.training.prefetch import Cancelled, OnDevices
from yolos_jax.training.resume import refuse_strangers
from yolos_jax.training.run import Run
from yolos_jax.training.signals import Stop, only_run_in
from yolos_jax.training.step import StepReport, TrainState, data_mesh


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
      workdir: where its checkpoints are.
      step: updates done in all.
      signal: number of the signal that ended it early, or 0.
      compiled: patches of the buckets that this process compiled the step for, in this order.
      padding: share of the patches of this process's steps that were padding.
    """

    workdir: Path
    step: int
    signal: int
    compiled: tuple[int, ...]
    padding: float


class NotFinite(InputError):
    """Costs, loss, gradients or parameters are no longer numbers; nothing is saved after that."""


def train(
    config: Any, workdir: str | Path, accept_differences: bool = False, devices: Sequence[jax.Device] | None = None
) -> Outcome:
    """Trains as a recipe says (see yolos_jax/settings.py), going on from the workdir's newest checkpoint if it has one.

    The workdir gets checkpoints (the latest few, and the best by AP in `best/`),
    `metrics.jsonl` and `tensorboard/`.

    Args:
      accept_differences: go on even if the recipe or the annotations are not what they were.
      devices: all by default; a run may go on with others than it began with.

    Raises:
      InputError: bad input, a disk that is full, a data worker that died, or
        numbers that are no longer finite.
    """
    workdir, team = Path(workdir), Team()
    with Stop() as stop, team.quiet(), contextlib.ExitStack() as stack:
        if team.count > 1 and devices is not None:
            raise InputError("several processes train on all of their devices; leave `devices` out.")
        team.together(lambda: stack.enter_context(only_run_in(make_folder(workdir))) if team.leads else None)
        run, _ = team.together(lambda: Run(config, data_mesh(devices)))
        refuse_strangers(team.tell(run.facts | run.validation_facts))
        state, meta = run.begin(workdir, accept_differences)
        print(run.describe())
        for note in run.notes:
            print(f"note: {note}")
        loop = Loop(run, state, meta.step, workdir, stop, stack)
        loop.go()
    with team.quiet():
        loop.tell_end()
    return Outcome(workdir, loop.done, stop.signal, tuple(run.programs), loop.log.padding)


class Loop:
    """What changes while a run trains: the state, the steps done, what has been evaluated and skipped.

    Files are kept open on `stack`.
    """

    def __init__(self, run: Run, state: TrainState, done: int, workdir: Path, stop: Stop, stack: contextlib.ExitStack):
        self.run, self.state, self.done, self.stop, self.team = run, state, done, stop, run.team
        self.keeper, self.log = self.team.together(lambda: self._open(workdir, stack))[0]
        self.evaluations = self.team.tell(self.log.evaluations())[0]
        self.skipped: list[str] = []
        self.trouble: InputError | None = None  # of the log, to be told to all at the next opportunity
        self.unchecked: tuple[StepReport, OnDevices] | None = None

    def _open(self, workdir: Path, stack: contextlib.ExitStack) -> tuple[Keeper, Log]:
        run, train = self.run, self.run.config.train
        keeper = stack.enter_context(Keeper(workdir, run.config.checkpoint.keep, self.team.leads))
        log = Log(workdir, train.log_every, self.done, run.total, run.schedule, run.per_epoch, self.team)
        return keeper, stack.enter_context(log)

    def go(self) -> None:
        """Trains to the end, or until a signal; leaves a checkpoint of the last step, unless numbers went bad."""
        self.evaluate()  # a kill may have come between the checkpoint and its evaluation
        try:
            with told_if_lost(self.team.count):
                self.steps()
                self.team.together(self.tell_trouble)
        except (NotFinite, LostProcess):
            raise
        except InputError as error:  # the state is good: whoever mends the trouble goes on from here
            self.save()
            self.team.together(self.keeper.wait)
            raise InputError(f"{error} {self.saved()}.") from error
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise InputError(
                f"the devices have not enough memory for step {self.done + 1} ({checkpoints.reason(error)}); raise "
                "train.accumulate, set model.remat=True, or lower train.batch_size or the sizes of images. Run the "
                "same command to go on from the newest checkpoint."
            ) from error
        self.save()
        self.team.together(self.keeper.wait)

    def steps(self) -> None:
        """Step after step, until the last one or a signal to any of the processes."""
        run, stop = self.run, self.stop
        feed, _ = self.team.together(lambda: run.feed(self.done, stop.__bool__))
        with feed:
            batches = iter(feed)
            while self.done < run.total:
                item, asked = self.team.together(lambda: self.next_of(batches), lambda: stop.signal)
                if asked or item is None:
                    stop.signal = stop.signal or asked
                    return
                self.state, report = self.program(item)(self.state, item.batch)
                # One step late, so that the device never waits for the host (in one process: several agree before
                # every step, on what came of the last one); a bad step changes nothing meanwhile.
                self.check_finite()
                self.unchecked, self.done = (report, item), item.step + 1
                try:
                    self.log.step(self.done, report, item, feed.waited)
                except InputError as error:
                    self.trouble = error
                if run.saves(self.done):
                    self.save()
                    self.evaluate()

    def program(self, item: OnDevices) -> Any:
        """The step compiled for a batch; all processes wait for the slowest compilation."""
        program = self.run.program_for(item)
        if program is None:
            program, _ = self.team.together(lambda: self.run.compile(self.state, item, self.log.say))
        return program

    def tell_trouble(self) -> None:
        """Raises what the log could not write."""
        if self.trouble is not None:
            raise self.trouble

    def next_of(self, batches: Iterator[OnDevices]) -> OnDevices | None:
        """The next batch, or None if the run is being stopped.

        Raises:
          InputError: a data worker died, an image cannot be read and must not be left out, or the log not be written.
        """
        self.tell_trouble()
        try:
            item = next(batches, None)
        except Cancelled:
            return None
        if item is not None and item.skipped:
            if self.run.config.data.on_bad_image == "stop":
                raise InputError(f"{item.skipped[0]} Repair it, or set --config.data.on_bad_image=skip.")
            self.skipped += item.skipped
        return item

    def save(self) -> None:
        """Starts to write a checkpoint of what has been done, if it is sound and not there yet."""
        self.check_finite()
        if self.done:
            meta = self.run.meta(self.done, self.evaluations)
            self.team.together(lambda: self.keeper.save(self.done, self.state, meta))

    def evaluate(self) -> None:
        """Evaluates this step if it is one to be evaluated and has not been; keeps it if it is the best so far."""
        evaluator = self.run.evaluator
        if evaluator is None or not self.lacks_evaluation() or self.stopping():
            return
        params = self.state.params if self.state.ema is None else self.state.ema
        with self.log.paused():
            result = evaluator(params, lambda: self.stop.signal)
        if result is None:
            self.stopping()
            return
        self.evaluations.append({"step": self.done, "AP": result.metrics["AP"], "AP50": result.metrics["AP50"]})
        self.team.together(lambda: self.keep_evaluation(params, result) if self.team.leads else None)

    def stopping(self) -> bool:
        """Whether a signal has come to any of the processes, which all know then."""
        _, asked = self.team.together(lambda: None, lambda: self.stop.signal)
        self.stop.signal = self.stop.signal or asked
        return bool(self.stop)

    def keep_evaluation(self, params: dict, result: Evaluation) -> None:
        """Writes down the newest evaluation, and the parameters if they are the best so far."""
        step, ap = self.done, result.metrics["AP"]
        best = best_so_far(self.keeper.path)
        better = best is None or ap > best[1]
        if better:
            meta = self.run.meta(step, self.evaluations)
            self.keeper.save_best(step, params, dataclasses.replace(meta, extra=meta.extra | {"AP": ap}))
        self.log.write(step, result.metrics, "val/")  # last: a step that has this line needs no evaluation any more
        self.log.say(
            f"step {step}: AP {ap:.4f}, AP50 {result.metrics['AP50']:.4f}, "
            + ("the best so far" if best is None or better else f"best {best[1]:.4f} at step {best[0]}")
            + (f"; {len(result.skipped)} images unreadable" if result.skipped else "")
        )

    def lacks_evaluation(self) -> bool:
        """Whether this step is one to be evaluated and has not been."""
        return self.run.evaluates(self.done) and all(e["step"] != self.done for e in self.evaluations)

    def check_finite(self) -> None:
        """Stops the run with a sentence that names the images if the last step could not be applied."""
        if self.unchecked is not None:
            report, item = self.unchecked
            self.unchecked = None
            if not bool(report.applied):
                indices = itertools.chain(*self.team.tell(item.indices.tolist()))
                ids = [int(self.run.source.examples.image_ids[i]) if i >= 0 else None for i in indices]
                raise not_finite(report, item.step + 1, ids)

    def saved(self) -> str:
        """Where what has been done is."""
        return f"step {self.done} is saved in {self.keeper.path}" if self.done else "nothing was to be saved yet"

    def tell_end(self) -> None:
        """The summary."""
        run, workdir = self.run, self.keeper.path
        skipped = list(itertools.chain(*self.team.tell(self.skipped)))
        for sentence in dict.fromkeys(skipped):
            print(f"skipped, another image took its place: {sentence}")
        print(self.log.summary())
        print(f"the step was compiled {len(run.programs)} time(s); {len(skipped)} images were skipped")
        best = best_so_far(workdir)
        if best is not None:
            print(f"best AP {best[1]:.4f} at step {best[0]}, in {workdir / BEST}")
        if self.stop and (self.done < run.total or self.lacks_evaluation()):
            print(f"stopped by {self.stop.name} after step {self.done} of {run.total}; {self.saved()}")
            print("the same command goes on from there")
        else:
            print(f"saved the checkpoint of step {self.done} to {workdir}; the run is complete")


def not_finite(report: StepReport, step: int, ids: Sequence[int | None]) -> NotFinite:
    """What to say of a step that was not applied.

    Args:
      step: counts from 1.
      ids: image ids of the batch, in order; None for an empty slot.
    """
    there = [i for i in ids if i is not None]
    bad = [i for i, fine in zip(ids, np.asarray(report.finite_costs)) if not fine and i is not None]
    what = "matching costs" if bad else "loss, gradients or updated parameters"
    terms = ", ".join(f"{name} {float(value):.4g}" for name, value in report.terms._asdict().items())
    return NotFinite(
        f"step {step}: the {what} of image id {', '.join(map(str, bad or there))} are not finite ({terms}, gradient "
        f"norm {float(report.grad_norm):.4g}); lower the learning rate or look at these images. This step is not "
        "saved; checkpoints from before are as they were."
    )
