"""Bipartite matching between queries and targets (paper, section 2.1; DETR).

There are two matchers. `host` calls scipy in a callback, once per device for the images on that device. `device` runs
optax's Hungarian algorithm inside the compiled program. It is slower on CPUs, but needs no host round trip, and the
program can be stored in the persistent compilation cache.
"""

import time
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

from yolos_jax.errors import InputError
from yolos_jax.model.boxes import cxcywh_to_xyxy, giou
from yolos_jax.objective.weights import LossWeights

MATCHERS = ("host", "device")
# The matcher `device` runs one loop iteration per target slot. On GPUs, the iterations for padding take longer than
# the matching itself, so it is also compiled for these numbers of targets; 73% of COCO images have at most 8.
FEW = (8, 32)


class Matching(NamedTuple):
    """The query matched to each target.

    `query` is -1 for padding, for targets left over if there are more than Q, and for all targets of an image with
    `finite` False. The caller must stop the run if any image has `finite` False.
    """

    query: jax.Array  # int32 `[B, M]`
    finite: jax.Array  # bool `[B]`, False for an image with a non-finite cost outside padding
    seconds: jax.Array  # float32 `[B]`, time per image on the host; 0 for the matcher `device`


def matching_cost(
    logits: jax.Array, boxes: jax.Array, labels: jax.Array, target_boxes: jax.Array, weights: LossWeights
) -> jax.Array:
    """Cost of matching each target to each query.

    Args:
      logits: `[B, Q, K + 1]`.
      boxes: `[B, Q, 4]` cxcywh in 0..1.
      labels: int32 `[B, M]`; padding may have any value, such as -1.
      target_boxes: `[B, M, 4]` cxcywh in 0..1; padding may have any value.
      weights: weights of the negative target class probability (`ce`), the L1 distance of cxcywh and the negative GIoU.

    Returns:
      float32 `[B, Q, M]`; padding columns are meaningless.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    index = jnp.clip(labels, 0, logits.shape[-1] - 1)[:, None, :]
    class_cost = -jnp.take_along_axis(probabilities, index, axis=-1)
    l1 = jnp.abs(boxes[:, :, None] - target_boxes[:, None]).sum(-1)
    overlap = giou(cxcywh_to_xyxy(boxes)[:, :, None], cxcywh_to_xyxy(target_boxes)[:, None])
    return weights.ce * class_cost + weights.bbox * l1 - weights.giou * overlap


def match(cost: jax.Array, count: jax.Array, matcher: str = "host", mesh: Mesh | None = None) -> Matching:
    """The lowest-cost one-to-one matching for every image.

    Args:
      cost: float `[B, Q, M]`.
      count: int32 `[B]`, number of targets per image (columns `:count`).
      matcher: `host` or `device`; static.
      mesh: devices that the batch is sharded over along the axis `data`; the matcher then runs once per device, on
        that device's images only.
    """
    if matcher not in MATCHERS:
        raise InputError(f"unknown matcher {matcher!r}; choose one of {', '.join(MATCHERS)}.")
    cost = jax.lax.stop_gradient(cost.astype(jnp.float32))
    real = jnp.arange(cost.shape[2]) < count[:, None]
    finite = jnp.where(real[:, None, :], jnp.isfinite(cost), True).all((1, 2))
    count = jnp.where(finite, count, 0).astype(jnp.int32)
    real &= finite[:, None]
    cost = jnp.where(real[:, None, :], cost, 0.0)
    if cost.shape[2] == 0:
        return Matching(jnp.zeros(cost.shape[::2], jnp.int32), finite, jnp.zeros(cost.shape[0]))
    solve = _match_on_device if matcher == "device" else _match_on_host
    if mesh is not None:
        # Each device matches its own images. Otherwise, the callback would get the whole batch gathered on one device,
        # and the loops of the matcher `device` would synchronise all devices in every iteration.
        spec = PartitionSpec("data")
        solve = jax.shard_map(solve, mesh=mesh, in_specs=(spec, spec), out_specs=spec, check_vma=False)
    found = solve(cost, count)
    return Matching(jnp.where(real, found[:, :-1], -1), finite, 1e-6 * found[:, -1].astype(jnp.float32))


def _match_on_host(cost: jax.Array, count: jax.Array) -> jax.Array:
    batch, _, most = cost.shape
    return jax.pure_callback(solve_on_host, jax.ShapeDtypeStruct((batch, most + 1), jnp.int32), cost, count)


def solve_on_host(cost: jax.Array | np.ndarray, count: jax.Array | np.ndarray) -> np.ndarray:
    """Runs scipy for each image: finite `[B, Q, M]`, `[B]` -> int32 `[B, M + 1]`: queries (or -1), then microseconds.

    It runs inside a callback, so it uses only NumPy, must not raise, and returns one array that includes the time.
    """
    from scipy.optimize import linear_sum_assignment  # importing it takes 0.5 s, and only this matcher needs it

    cost, count = np.asarray(cost), np.asarray(count)
    out = np.full((cost.shape[0], cost.shape[2] + 1), -1, np.int32)
    for image, n in enumerate(count):
        start = time.perf_counter()
        rows, columns = linear_sum_assignment(cost[image, :, :n])
        out[image, columns] = rows
        out[image, -1] = 1e6 * (time.perf_counter() - start)
    return out


def _match_on_device(cost: jax.Array, count: jax.Array) -> jax.Array:
    """Runs optax's Hungarian algorithm; returns the same as `solve_on_host`, with a time of 0."""
    most = cost.shape[2]
    sizes = [size for size in FEW if size < most] + [most]
    fitting = sum((count.max() > size).astype(jnp.int32) for size in sizes[:-1])
    return jax.lax.switch(fitting, [partial(_match_first, size) for size in sizes], cost, count)


def _match_first(size: int, cost: jax.Array, count: jax.Array) -> jax.Array:
    """The matching for the first `size` targets of each image, which include all real ones.

    A padding column costs more than any real entry, so it never takes a query from a real target. All padding columns
    cost the same, so they do not affect the cheapest matching of the real targets.
    """
    most = cost.shape[2]
    cost = cost[:, :, :size]
    real = jnp.arange(size) < count[:, None]
    highest = jnp.where(real[:, None, :], cost, -jnp.inf).max((1, 2), keepdims=True)
    highest = jnp.where(jnp.isfinite(highest), highest, 0.0) + 1.0
    cost = jnp.where(real[:, None, :], cost, highest)

    def one(cost: jax.Array) -> jax.Array:
        rows, columns = optax.assignment.hungarian_algorithm(cost)
        query = jnp.full(most + 1, -1, jnp.int32).at[columns].set(rows.astype(jnp.int32))
        return query.at[-1].set(0)

    return jax.vmap(one)(cost)
