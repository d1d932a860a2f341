"""Compiles the training step once per bucket, and checks the result of each step one step later."""

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from yolos_jax.distributed.processes import Processes
from yolos_jax.errors import InputError
from yolos_jax.training.prefetch import DeviceBatch
from yolos_jax.training.step import StepReport, TrainState, all_finite
from yolos_jax.training.task import Task

AHEAD = 50  # number of upcoming steps to compile programs for
THREADS = 4  # number of concurrent compilations


class NotFinite(InputError):
    """Costs, loss, gradients or parameters are no longer finite; nothing is saved after that."""


class BucketedStep:
    """A training step from `make_step`, compiled once per bucket, whose result is checked one step later.

    Programs for upcoming steps are compiled concurrently, while steps with existing programs run. With several
    processes, each program is compiled when a step needs it, because compilation may involve communication.

    Args:
      say: prints a message.
      doing: shows the current activity in a few words; "" for normal training.
    """

    def __init__(
        self, step: Any, task: Task, processes: Processes, say: Callable[[str], object], doing: Callable[[str], object]
    ):
        self._step = step
        self._task = task
        self._processes = processes
        self._say = say
        self._doing = doing
        self._unchecked: tuple[StepReport, DeviceBatch] | None = None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="compiling")
        self._begun: dict[int, Future[tuple[Any, float]]] = {}  # program and compile time in seconds, by bucket
        self.programs: dict[int, Any] = {}  # programs for the buckets used so far

    def __call__(self, state: TrainState, batch: DeviceBatch) -> tuple[TrainState, StepReport]:
        """Starts a step; raises `NotFinite` if the previous step could not be applied."""
        program = self.programs.get(batch.bucket)
        if program is None:  # all processes wait for the slowest compilation
            program = self._processes.agree(self._compile, state, batch)
        state, report = program(state, batch.arrays)
        # Checked one step later, so that the device never waits for the host (several processes, however, agree on
        # each step before the next). The delay is safe, because a failed step leaves the state unchanged.
        self.check()
        self._unchecked = report, batch
        return state, report

    def _compile(self, state: TrainState, batch: DeviceBatch) -> Any:
        number = f"{len(self.programs) + 1} of {self._task.buckets}"
        self._doing(f"compiling program {number}, {batch.bucket:,} patches")
        state_like, arrays_like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, batch.arrays))
        for bucket in self._needed(batch):
            if bucket not in self._begun:
                self._begun[bucket] = self._threads.submit(self._compiled, state_like, arrays_like, bucket)
        program, seconds = self._begun[batch.bucket].result()
        self.programs[batch.bucket] = program
        self._doing("")
        self._say(f"compiled the step for {batch.bucket} patches in {seconds:.1f} s ({number} buckets)")
        return program

    def _needed(self, batch: DeviceBatch) -> list[int]:
        """The buckets to compile now, in the order in which steps need them."""
        if self._processes.count > 1:
            return [batch.bucket]
        following = range(batch.step + 1, min(batch.step + AHEAD, self._task.steps))
        buckets = [self._task.bucket_of(step) or batch.bucket for step in following]
        return list(dict.fromkeys([batch.bucket, *buckets]))

    def _compiled(self, state: TrainState, arrays: Any, bucket: int) -> tuple[Any, float]:
        """Compiles the program for batches like `arrays` with sequences of `bucket` patches."""
        start = time.perf_counter()
        if hasattr(arrays, "patches"):
            images, _, values = arrays.patches.shape
            like = jax.ShapeDtypeStruct((images, bucket, values), arrays.patches.dtype)
            arrays = arrays._replace(patches=like)
        program = self._step.lower(state, arrays).compile()
        return program, time.perf_counter() - start

    def close(self) -> None:
        """Cancels compilations that have not started."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def check(self, params: dict | None = None) -> None:
        """Raises `NotFinite`, which names the images, if the last step was not applied or `params` are not finite."""
        if self._unchecked is None:
            return
        report, batch = self._unchecked
        self._unchecked = None
        if not bool(report.applied) or (params is not None and not bool(all_finite(params))):
            indices = itertools.chain(*self._processes.allgather(batch.indices.tolist()))
            names = [self._task.name_of(i) if i >= 0 else None for i in indices]
            raise not_finite(report, batch.step + 1, names, self._task.bad_images)


def not_finite(report: StepReport, step: int, names: Sequence[str | None], bad_images: str) -> NotFinite:
    """The error for a step (counted from 1) that was not applied; `names` are its images, None for empty slots."""
    there = [name for name in names if name is not None]
    bad = [name for name, fine in zip(names, np.asarray(report.loss.finite)) if not fine and name is not None]
    what = bad_images if bad else "loss, gradients or updated parameters"
    terms = ", ".join(f"{name} {float(value):.4g}" for name, value in report.loss.terms.items())
    return NotFinite(
        f"step {step}: the {what} of {', '.join(bad or there)} are not finite ({terms}, gradient "
        f"norm {float(report.grad_norm):.4g}); lower the learning rate or check these images. This step is not "
        "saved; earlier checkpoints are unchanged."
    )
