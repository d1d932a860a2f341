"""The step of a run: compiled once per bucket, and checked one step late."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from yolos_jax.distributed.processes import Processes
from yolos_jax.errors import InputError
from yolos_jax.training.prefetch import DeviceBatch
from yolos_jax.training.step import StepReport, TrainState
from yolos_jax.training.task import Task


class NotFinite(InputError):
    """Costs, loss, gradients or parameters are no longer numbers; nothing is saved after that."""


class BucketedStep:
    """The step of a run, as `make_step` gives it: compiled when a bucket is first met, and checked one step late."""

    def __init__(self, step: Any, task: Task, processes: Processes, say: Callable[[str], object]):
        self._step = step
        self._task = task
        self._processes = processes
        self._say = say
        self._unchecked: tuple[StepReport, DeviceBatch] | None = None
        self.programs: dict[int, Any] = {}  # of each bucket met so far, by its patches

    def __call__(self, state: TrainState, batch: DeviceBatch) -> tuple[TrainState, StepReport]:
        """Starts a step, and raises `NotFinite` if the one before could not be applied."""
        program = self.programs.get(batch.bucket)
        if program is None:  # all processes wait for the slowest compilation
            program = self._processes.agree(self._compile, state, batch)
        state, report = program(state, batch.arrays)
        # One step late, so that the device never waits for the host (in one process: several agree before every
        # step, on what came of the last one); a bad step changes nothing meanwhile.
        self.check()
        self._unchecked = report, batch
        return state, report

    def _compile(self, state: TrainState, batch: DeviceBatch) -> Any:
        start = time.perf_counter()
        program = self._step.lower(state, batch.arrays).compile()
        self.programs[batch.bucket] = program
        seconds = time.perf_counter() - start
        buckets = f"{len(self.programs)} of {self._task.buckets} buckets"
        self._say(f"compiled the step for {batch.bucket} patches in {seconds:.1f} s ({buckets})")
        return program

    def check(self) -> None:
        """Raises `NotFinite`, which names the images, if the last step could not be applied."""
        if self._unchecked is None:
            return
        report, batch = self._unchecked
        self._unchecked = None
        if not bool(report.applied):
            indices = itertools.chain(*self._processes.allgather(batch.indices.tolist()))
            names = [self._task.name_of(i) if i >= 0 else None for i in indices]
            raise not_finite(report, batch.step + 1, names, self._task.bad_images)


def not_finite(report: StepReport, step: int, names: Sequence[str | None], bad_images: str) -> NotFinite:
    """The error for a step (counted from 1) that was not applied; `names` are its images', None for an empty slot."""
    there = [name for name in names if name is not None]
    bad = [name for name, fine in zip(names, np.asarray(report.loss.finite)) if not fine and name is not None]
    what = bad_images if bad else "loss, gradients or updated parameters"
    terms = ", ".join(f"{name} {float(value):.4g}" for name, value in report.loss.terms.items())
    return NotFinite(
        f"step {step}: the {what} of {', '.join(bad or there)} are not finite ({terms}, gradient "
        f"norm {float(report.grad_norm):.4g}); lower the learning rate or look at these images. This step is not "
        "saved; checkpoints from before are as they were."
    )
