"""One optimisation step: a pure function of (state, batch), compiled once per bucket."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from yolos_jax.distributed.mesh import replicated, split_over
from yolos_jax.distributed.processes import Processes
from yolos_jax.errors import InputError
from yolos_jax.training.prefetch import DeviceBatch
from yolos_jax.training.task import Loss, LossReport, Task


class TrainState(NamedTuple):
    """Everything that training changes."""

    step: jax.Array | np.ndarray  # int32 scalar, updates done
    params: dict  # nested, of float32 arrays
    opt_state: Any
    ema: dict | None = None  # an exponential moving average of `params`, if wanted


class StepReport(NamedTuple):
    """What one step says."""

    loss: LossReport  # of the whole batch, before the update
    grad_norm: jax.Array  # global norm of the gradients of what is trained, before clipping
    applied: jax.Array  # bool; False if loss, gradients or new parameters were not finite: the state is as it was


def make_gradient(
    loss: Loss,
    divisors: Callable[[Any], Any],
    mesh: Mesh,
    parts: int = 1,
    hold: Callable[[dict], dict] = lambda params: params,
) -> Callable:
    """(params, batch) -> (gradients, `LossReport`), the batch taken in `parts` one after the other.

    Losses are divided by what the whole batch holds (`divisors` of it), so the parts' gradients add up to what the
    batch in one piece gives, within rounding. `hold` stops the gradients of what is frozen; these are zero.
    """

    def of_held(params: dict, *batch: Any) -> tuple[jax.Array, LossReport]:
        return loss(hold(params), *batch)

    value_and_grad = jax.value_and_grad(of_held, has_aux=True)
    split = NamedSharding(mesh, PartitionSpec(None, "data"))

    def whole(params: dict, batch: Any) -> tuple[dict, LossReport]:
        (_, report), grads = value_and_grad(params, batch)
        return grads, report

    def cut(x: jax.Array) -> jax.Array:
        """`[B, ...]` -> `[parts, B / parts, ...]` without moving anything between devices."""
        shape = mesh.size, parts, -1, *x.shape[1:]
        x = x.reshape(shape).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(x.reshape(parts, -1, *x.shape[3:]), split)

    def accumulated(params: dict, batch: Any) -> tuple[dict, LossReport]:
        of_all, cuts = divisors(batch), jax.tree.map(cut, batch)

        def one(part: Any) -> tuple[tuple[dict, dict, dict], jax.Array]:
            (_, report), grads = value_and_grad(params, part, of_all)
            return (grads, report.terms, report.measured), report.finite

        def add(sums: Any, part: Any) -> tuple[Any, jax.Array]:
            values, finite = one(part)
            return jax.tree.map(jnp.add, sums, values), finite

        shapes, _ = jax.eval_shape(one, jax.tree.map(lambda x: x[0], cuts))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        (grads, terms, measured), finite = jax.lax.scan(add, zeros, cuts)
        finite = finite.reshape(parts, mesh.size, -1).swapaxes(0, 1).reshape(-1)
        return grads, LossReport(terms, finite, measured)

    return whole if parts == 1 else accumulated


def make_step(
    gradient: Callable,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    average: Callable[[dict, dict], dict] = lambda old, params: params,
) -> Any:
    """The step as `jax.jit` makes it: (state, batch) -> (state, `StepReport`).

    The state is donated, the batch is split over `mesh`. The reference averages gradients over replicas; here the
    loss itself is that average, so its gradient over the whole batch is the same number.

    Args:
      gradient: as `make_gradient` gives it.
      average: (moving average, new parameters) -> the next moving average, if the state has one.
    """

    def step(state: TrainState, batch: Any) -> tuple[TrainState, StepReport]:
        grads, report = gradient(state.params, batch)
        norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = None if state.ema is None else average(state.ema, params)
        new = TrainState(state.step + 1, params, opt_state, ema)
        fine = jnp.stack([jnp.isfinite(p).all() for p in jax.tree.leaves((params, report.terms))]).all()
        applied = report.finite.all() & jnp.isfinite(norm) & fine
        new = jax.tree.map(lambda a, b: jnp.where(applied, a, b), new, state)
        return new, StepReport(report, norm, applied)

    same, split = replicated(mesh), split_over(mesh)
    return jax.jit(step, in_shardings=(same, split), out_shardings=(same, same), donate_argnums=0)


def fresh_state(params: dict, optimizer: optax.GradientTransformation, ema: bool = False) -> TrainState:
    """Step 0, not yet on all devices; the moving average starts at the parameters."""
    average = jax.tree.map(jnp.array, params) if ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), average)


class NotFinite(InputError):
    """Costs, loss, gradients or parameters are no longer numbers; nothing is saved after that."""


class BucketedStep:
    """The step of a run, as `make_step` gives it: compiled when a bucket is first met, and checked one step late."""

    def __init__(self, step: Any, task: Task, processes: Processes, say: Callable[[str], object]):
        self._step, self._task, self._processes, self._say = step, task, processes, say
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
        met, seconds = f"{len(self.programs)} of {self._task.buckets}", time.perf_counter() - start
        self._say(f"compiled the step for {batch.bucket} patches in {seconds:.1f} s ({met} buckets)")
        return program

    def check(self) -> None:
        """Raises `NotFinite`, which names the images, if the last step could not be applied."""
        if self._unchecked is None:
            return
        (report, batch), self._unchecked = self._unchecked, None
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
