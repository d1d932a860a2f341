"""One optimisation step: a pure function of (state, batch), compiled once per bucket."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from yolos_jax.data.examples import TrainBatch
from yolos_jax.model.yolos import apply
from yolos_jax.objective.losses import LossTerms, Targets, set_loss


class TrainState(NamedTuple):
    """Everything that training changes: step (int32 scalar), parameters, optimizer state."""

    step: jax.Array
    params: dict
    opt_state: Any


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


def data_mesh(devices: list | None = None) -> Mesh:
    """All devices along one axis, `data`."""
    return Mesh(np.array(jax.devices() if devices is None else devices), ("data",))


def split_over(mesh: Mesh) -> NamedSharding:
    """Arrays split along their first axis over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def make_loss(graph: Any, images_per_replica: int, solver: str, mesh: Mesh) -> Callable:
    """(params, batch) -> (loss, (terms, finite)), see `objective.losses.set_loss`."""

    def loss(params, batch: TrainBatch):
        out = apply(graph, params, batch.patches, batch.grid)
        targets = Targets(batch.labels, batch.boxes, batch.count, batch.valid)
        terms, finite = set_loss(out.logits, out.boxes, targets, images_per_replica, solver, mesh)
        return terms.total, (terms, finite)

    return loss


def make_step(
    graph: Any,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    images_per_replica: int = 1,
    solver: str = "host",
) -> Callable[[TrainState, TrainBatch], tuple[TrainState, StepReport]]:
    """The compiled step; the state is donated, the batch is split over `mesh`.

    The reference averages gradients over replicas; here the loss itself is that
    average, so its gradient over the whole batch is the same number.
    """
    loss = make_loss(graph, images_per_replica, solver, mesh)

    def step(state: TrainState, batch: TrainBatch):
        (_, (terms, finite)), grads = jax.value_and_grad(loss, has_aux=True)(state.params, batch)
        norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        new = TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state)
        fine = jnp.stack([jnp.isfinite(p).all() for p in jax.tree.leaves(new.params)]).all()
        applied = finite.all() & jnp.isfinite(terms.total) & jnp.isfinite(norm) & fine
        new = jax.tree.map(lambda a, b: jnp.where(applied, a, b), new, state)
        return new, StepReport(terms, norm, finite, applied)

    same, split = replicated(mesh), split_over(mesh)
    return jax.jit(step, in_shardings=(same, split), out_shardings=(same, same), donate_argnums=0)


def initial_state(params: dict, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Step 0, on every device of `mesh`."""
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    return jax.device_put(state, replicated(mesh))
