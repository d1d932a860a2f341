"""One optimisation step: a pure function of (state, batch), compiled once per bucket."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from yolos_jax.distributed.mesh import compiler_options, replicated, split_over


class LossReport(NamedTuple):
    """What a loss function returns besides its value. Terms and measurements of parts add up to those of a batch."""

    terms: dict[str, jax.Array]  # scalars by name
    finite: jax.Array  # bool `[B]`, False for images with non-finite values
    measured: dict[str, jax.Array]  # other scalars to report, such as times in milliseconds


Loss = Callable[..., tuple[jax.Array, LossReport]]
"""(params, batch, divisors=None) -> (scalar to minimise, report).

`divisors` are computed from the whole batch if `batch` is a part of it, and None if `batch` is the whole batch.
"""


class TrainState(NamedTuple):
    """Everything that a training step updates."""

    step: jax.Array | np.ndarray  # int32 scalar, number of updates
    params: dict  # nested dict of float32 arrays
    opt_state: Any
    ema: dict | None = None  # exponential moving average of `params`, if enabled


class StepReport(NamedTuple):
    """The report of one step."""

    loss: LossReport  # for the whole batch, before the update
    grad_norm: jax.Array  # global gradient norm of the trained parameters, before clipping
    applied: jax.Array  # bool; False if loss or gradients were not finite and the state is unchanged


def make_gradient(
    loss: Loss,
    divisors: Callable[[Any], Any],
    mesh: Mesh,
    parts: int = 1,
    hold: Callable[[dict], dict] = lambda params: params,
) -> Callable:
    """Returns (params, batch) -> (gradients, `LossReport`), which processes `parts` pieces of the batch one at a time.

    The `loss` uses the `divisors` of the whole batch, so the parts' gradients add up to those of the whole batch,
    within rounding. `hold` applies `stop_gradient` to frozen parameters.
    """

    def of_held(params: dict, *batch: Any) -> tuple[jax.Array, LossReport]:
        return loss(hold(params), *batch)

    value_and_grad = jax.value_and_grad(of_held, has_aux=True)
    split = NamedSharding(mesh, PartitionSpec(None, "data"))

    def whole(params: dict, batch: Any) -> tuple[dict, LossReport]:
        (_, report), grads = value_and_grad(params, batch)
        return grads, report

    def cut(x: jax.Array) -> jax.Array:
        """`[B, ...]` -> `[parts, B / parts, ...]` without transfers between devices."""
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
    average: Callable[[dict, dict, jax.Array], dict] = lambda old, params, t: params,
) -> Any:
    """Returns the jitted step: (state, batch) -> (state, `StepReport`).

    The state is donated, and the batch is split over `mesh`. The reference averages gradients over replicas; here the
    loss itself is averaged, so its gradient is the same.

    Args:
      gradient: a function from `make_gradient`.
      average: (moving average, new parameters, updates done) -> the next moving average, if the state has one.
    """

    def step(state: TrainState, batch: Any) -> tuple[TrainState, StepReport]:
        with jax.numpy_rank_promotion("allow"):  # even if the user has disabled it
            grads, report = gradient(state.params, batch)
        norm = optax.tree.norm(grads)
        # Decided before the update, so that the compiler can fuse the two. Parameters that overflow in the update
        # itself are detected in the next step's loss, or when they are saved.
        numbers = jnp.stack([norm, *report.terms.values()])
        applied = report.finite.all() & jnp.isfinite(numbers).all()
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = None if state.ema is None else average(state.ema, params, jnp.asarray(state.step + 1))
        new = TrainState(state.step + 1, params, opt_state, ema)
        new = jax.tree.map(lambda a, b: jnp.where(applied, a, b), new, state)
        return new, StepReport(report, norm, applied)

    same, split = replicated(mesh), split_over(mesh)
    options = compiler_options(mesh)
    return jax.jit(
        step, in_shardings=(same, split), out_shardings=(same, same), donate_argnums=0, compiler_options=options
    )


@jax.jit
def all_finite(params: dict) -> jax.Array:
    """Whether all values of all arrays are finite, a bool scalar."""
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(params)]).all()


def fresh_state(params: dict, optimizer: optax.GradientTransformation, ema: bool = False) -> TrainState:
    """The state at step 0, not yet on all devices; with `ema`, the moving average is initialised to the parameters."""
    average = jax.tree.map(jnp.array, params) if ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), average)
