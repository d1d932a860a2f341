"""Bipartite matching of queries and targets (paper, section 2.1; DETR).

Two solvers with one signature, chosen by one config key: `host` calls scipy in
a callback, on every device for its own images; `device` is optax's Hungarian
algorithm inside the compiled program (slower on CPU, no host round trip, and
the program fits the persistent compilation cache).
"""

import time
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec
from scipy.optimize import linear_sum_assignment

from yolos_jax.errors import InputError
from yolos_jax.objective.boxes import cxcywh_to_xyxy, giou

SOLVERS = ("host", "device")
HOST_SECONDS: deque[float] = deque(maxlen=100_000)  # of every call on the host, for the log, which empties it


def matching_cost(
    logits: jax.Array,
    boxes: jax.Array,
    labels: jax.Array,
    target_boxes: jax.Array,
    weights: tuple[float, float, float] = (1.0, 5.0, 2.0),
) -> jax.Array:
    """Cost of giving each target to each query.

    Args:
      logits: `[B, Q, K + 1]`.
      boxes: `[B, Q, 4]` cxcywh in 0..1.
      labels: int32 `[B, M]`; padding may hold anything (-1, say).
      target_boxes: `[B, M, 4]` cxcywh in 0..1; padding may hold anything.
      weights: of minus the target class's probability, of the L1 distance of
        cxcywh and of minus GIoU.

    Returns:
      float32 `[B, Q, M]`; columns of padding are meaningless.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    index = jnp.clip(labels, 0, logits.shape[-1] - 1)[:, None, :]
    class_cost = -jnp.take_along_axis(probabilities, index, axis=-1)
    l1 = jnp.abs(boxes[:, :, None] - target_boxes[:, None]).sum(-1)
    overlap = giou(cxcywh_to_xyxy(boxes)[:, :, None], cxcywh_to_xyxy(target_boxes)[:, None])
    return weights[0] * class_cost + weights[1] * l1 - weights[2] * overlap


def match(
    cost: jax.Array, count: jax.Array, solver: str = "host", mesh: Mesh | None = None
) -> tuple[jax.Array, jax.Array]:
    """The cheapest one-to-one matching of every image.

    Args:
      cost: float `[B, Q, M]`.
      count: int32 `[B]`, real targets of each image (columns `:count`).
      solver: `host` or `device`; static.
      mesh: devices the batch is split over along the axis `data`; the solver
        then runs once per device, on that device's images only.

    Returns:
      query: int32 `[B, M]`, the query of each target. -1 for padding, for the
        targets left over when there are more than Q, and for all targets of an
        image that is not `finite`.
      finite: bool `[B]`, False for an image whose real costs are not all
        finite; the caller must stop the run.
    """
    if solver not in SOLVERS:
        raise InputError(f"there is no matcher {solver!r}; choose one of {', '.join(SOLVERS)}.")
    cost = jax.lax.stop_gradient(cost.astype(jnp.float32))
    real = jnp.arange(cost.shape[2]) < count[:, None]
    finite = jnp.where(real[:, None, :], jnp.isfinite(cost), True).all((1, 2))
    count = jnp.where(finite, count, 0).astype(jnp.int32)
    real &= finite[:, None]
    cost = jnp.where(real[:, None, :], cost, 0.0)
    if cost.shape[2] == 0:
        return jnp.zeros(cost.shape[::2], jnp.int32), finite
    solve = _match_on_device if solver == "device" else _match_on_host
    if mesh is not None:
        # Each device for its own images: a callback would otherwise get the whole batch gathered on one device, and
        # the loops of the solver on the device would ask all devices at every turn whether they are done.
        spec = PartitionSpec("data")
        solve = jax.shard_map(solve, mesh=mesh, in_specs=(spec, spec), out_specs=spec, check_vma=False)
    return jnp.where(real, solve(cost, count), -1), finite


def _match_on_host(cost: jax.Array, count: jax.Array) -> jax.Array:
    shape = jax.ShapeDtypeStruct(cost.shape[::2], jnp.int32)
    return jax.pure_callback(solve_on_host, shape, cost, count)


def solve_on_host(cost: jax.Array | np.ndarray, count: jax.Array | np.ndarray) -> np.ndarray:
    """scipy for each image: finite `[B, Q, M]`, `[B]` -> int32 `[B, M]` queries, -1 for none.

    Runs inside a callback, so it is numpy only and must not raise.
    """
    start = time.perf_counter()
    cost, count = np.asarray(cost), np.asarray(count)
    query = np.full(cost.shape[::2], -1, np.int32)
    for image, n in enumerate(count):
        rows, columns = linear_sum_assignment(cost[image, :, :n])
        query[image, columns] = rows
    HOST_SECONDS.append(time.perf_counter() - start)
    return query


def _match_on_device(cost: jax.Array, count: jax.Array) -> jax.Array:
    """optax's Hungarian algorithm, vmapped; of the `[B, Q, M]` costs the first `count` columns are real.

    A padding column costs more than any real entry, so it never takes a query
    that a real target could have; all such columns cost the same, so they do
    not change which matching of the real ones is cheapest.
    """
    real = jnp.arange(cost.shape[2]) < count[:, None]
    dear = jnp.where(real[:, None, :], cost, -jnp.inf).max((1, 2), keepdims=True)
    dear = jnp.where(jnp.isfinite(dear), dear, 0.0) + 1.0
    cost = jnp.where(real[:, None, :], cost, dear)

    def one(cost: jax.Array) -> jax.Array:
        rows, columns = optax.assignment.hungarian_algorithm(cost)
        return jnp.full(cost.shape[1], -1, jnp.int32).at[columns].set(rows.astype(jnp.int32))

    return jax.vmap(one)(cost)
