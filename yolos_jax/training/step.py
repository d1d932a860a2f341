"""One optimisation step: a pure function of (state, batch), compiled once per bucket."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from yolos_jax.data.examples import TrainBatch
from yolos_jax.distributed.processes import place
from yolos_jax.model.yolos import apply
from yolos_jax.objective.losses import LossTerms, Shares, Targets, set_loss, shares_of


class TrainState(NamedTuple):
    """Everything that training changes.

    Attributes:
      step: int32 scalar, updates done.
      params: nested dict of float32 arrays.
      opt_state: optax's.
      ema: an exponential moving average of `params`, or None if not wanted.
    """

    step: jax.Array | np.ndarray
    params: dict
    opt_state: Any
    ema: dict | None = None


class StepReport(NamedTuple):
    """What one step says.

    Attributes:
      terms: loss terms before the update.
      grad_norm: global norm of the gradients before clipping.
      finite_costs: bool `[B]`, False for images whose matching costs are not finite.
      applied: bool scalar; False if costs, loss, gradients or the updated
        parameters were not finite, and then the state is as it was.
    """

    terms: LossTerms
    grad_norm: jax.Array
    finite_costs: jax.Array
    applied: jax.Array


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Devices (all by default) along one axis, `data`, those of a process side by side."""
    found = jax.devices() if devices is None else list(devices)
    return Mesh(np.array(sorted(found, key=lambda d: d.process_index)), ("data",))


def split_over(mesh: Mesh) -> NamedSharding:
    """Arrays split along their first axis over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def make_loss(graph: Any, images_per_replica: int, solver: str, mesh: Mesh) -> Callable:
    """(params, batch, shares=None) -> (loss, (terms, finite)), see `objective.losses.set_loss`."""

    def loss(
        params: dict, batch: TrainBatch, shares: Shares | None = None
    ) -> tuple[jax.Array, tuple[LossTerms, jax.Array]]:
        out = apply(graph, params, batch.patches, batch.grid)
        targets = Targets(*map(jnp.asarray, (batch.labels, batch.boxes, batch.count, batch.valid)))
        terms, finite = set_loss(out.logits, out.boxes, targets, images_per_replica, solver, mesh, shares)
        return terms.total, (terms, finite)

    return loss


def make_gradient(graph: Any, images_per_replica: int, solver: str, mesh: Mesh, parts: int = 1) -> Callable:
    """(params, batch) -> (gradients, terms, finite), the batch taken in `parts` one after the other.

    Losses are divided by what the whole batch holds, so the parts' gradients
    add up to exactly what the batch in one piece gives, within rounding.
    """
    value_and_grad = jax.value_and_grad(make_loss(graph, images_per_replica, solver, mesh), has_aux=True)
    split = NamedSharding(mesh, PartitionSpec(None, "data"))

    def whole(params: dict, batch: TrainBatch) -> tuple[dict, LossTerms, jax.Array]:
        (_, (terms, finite)), grads = value_and_grad(params, batch)
        return grads, terms, finite

    def cut(x: jax.Array) -> jax.Array:
        """`[B, ...]` -> `[parts, B / parts, ...]` without moving anything between devices."""
        shape = mesh.size, parts, -1, *x.shape[1:]
        x = x.reshape(shape).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(x.reshape(parts, -1, *x.shape[3:]), split)

    def accumulated(params: dict, batch: TrainBatch) -> tuple[dict, LossTerms, jax.Array]:
        shares = shares_of(jnp.asarray(batch.count), jnp.asarray(batch.valid), images_per_replica)

        def add(sums: tuple[dict, LossTerms], part: TrainBatch) -> tuple[tuple[dict, LossTerms], jax.Array]:
            (_, (terms, finite)), grads = value_and_grad(params, part, shares)
            return jax.tree.map(jnp.add, sums, (grads, terms)), finite

        zeros = jax.tree.map(jnp.zeros_like, params), LossTerms(*[jnp.zeros(())] * len(LossTerms._fields))
        (grads, terms), finite = jax.lax.scan(add, zeros, jax.tree.map(cut, batch))
        finite = finite.reshape(parts, mesh.size, -1).swapaxes(0, 1).reshape(-1)
        return grads, terms, finite

    return whole if parts == 1 else accumulated


def make_step(
    graph: Any,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    images_per_replica: int = 1,
    solver: str = "host",
    parts: int = 1,
    ema_decay: float = 0.0,
) -> Any:
    """The step as `jax.jit` makes it: (state, batch) -> (state, report).

    The state is donated, the batch is split over `mesh`.

    The reference averages gradients over replicas; here the loss itself is that
    average, so its gradient over the whole batch is the same number.

    Args:
      parts: gradient accumulation, see `make_gradient`; each device's share of
        a part must be whole groups of `images_per_replica`.
      ema_decay: of the moving average of the parameters, if the state has one.
    """
    gradient = make_gradient(graph, images_per_replica, solver, mesh, parts)

    def step(state: TrainState, batch: TrainBatch) -> tuple[TrainState, StepReport]:
        grads, terms, finite = gradient(state.params, batch)
        norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = None if state.ema is None else optax.incremental_update(params, state.ema, 1.0 - ema_decay)
        new = TrainState(state.step + 1, params, opt_state, ema)
        fine = jnp.stack([jnp.isfinite(p).all() for p in jax.tree.leaves(new.params)]).all()
        applied = finite.all() & jnp.isfinite(terms.total) & jnp.isfinite(norm) & fine
        new = jax.tree.map(lambda a, b: jnp.where(applied, a, b), new, state)
        return new, StepReport(terms, norm, finite, applied)

    same, split = replicated(mesh), split_over(mesh)
    return jax.jit(step, in_shardings=(same, split), out_shardings=(same, same), donate_argnums=0)


def fresh_state(params: dict, optimizer: optax.GradientTransformation, ema: bool = False) -> TrainState:
    """Step 0, not yet on all devices; the moving average starts at the parameters."""
    return TrainState(
        jnp.zeros((), jnp.int32), params, optimizer.init(params), jax.tree.map(jnp.array, params) if ema else None
    )


def initial_state(params: dict, optimizer: optax.GradientTransformation, mesh: Mesh, ema: bool = False) -> TrainState:
    """The same on every device of `mesh`."""
    return place(jax.tree.map(np.asarray, fresh_state(params, optimizer, ema)), replicated(mesh))
