"""The set loss: cross entropy of all queries, L1 and GIoU losses of the matched queries."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from yolos_jax.model.boxes import cxcywh_to_xyxy, giou
from yolos_jax.objective.matching import Matching, match, matching_cost
from yolos_jax.objective.weights import LossWeights

WEIGHTS = LossWeights()


class Targets(NamedTuple):
    """The ground truth of a batch; slots from index `count` onwards are padding."""

    labels: jax.Array  # int32 `[B, M]`
    boxes: jax.Array  # float32 `[B, M, 4]` cxcywh in 0..1
    count: jax.Array  # type: ignore[assignment]  # int32 `[B]`; the name shadows tuple.count
    valid: jax.Array  # bool `[B]`, False for a slot without an image


class LossTerms(NamedTuple):
    """Loss terms and logging metrics, float32 scalars.

    `total` is the weighted sum to minimise; the terms are unweighted. `cardinality_error` (absolute error in the number
    of predicted objects) and `class_error` (percent of the matched queries, 100 if none is matched) have no gradient.
    """

    total: jax.Array
    ce: jax.Array
    bbox: jax.Array
    giou: jax.Array
    cardinality_error: jax.Array
    class_error: jax.Array


def set_loss(
    logits: jax.Array,
    boxes: jax.Array,
    targets: Targets,
    images_per_replica: int,
    matcher: str = "host",
    mesh: Mesh | None = None,
    divisors: "Divisors | None" = None,
    weights: LossWeights = WEIGHTS,
) -> tuple[LossTerms, Matching]:
    """The reference's loss in data-parallel training.

    Cross entropy is a weighted mean within each group of `images_per_replica` consecutive images, averaged over groups.
    Box terms are divided by the mean number of targets per group in the batch (at least 1; targets in excess of the
    number of queries are included) and averaged over groups. If `images_per_replica` is the batch size, this is the
    loss of a single process.

    Args:
      logits: `[B, Q, K + 1]`.
      boxes: `[B, Q, 4]` cxcywh in 0..1.
      targets: the targets of `B` images.
      images_per_replica: static; must divide B.
      matcher, mesh: see `matching.match`.
      divisors: divisors of the larger batch that contains these images, so that the terms of its parts add up.
      weights: weights of the terms and of the matching cost; `inverse` must already have been replaced by numbers.

    Returns:
      The loss terms and the matching. The terms are meaningless unless every image's matching is `finite`.
    """
    cost = matching_cost(logits, boxes, targets.labels, targets.boxes, weights)
    matching = match(cost, jnp.where(targets.valid, targets.count, 0), matcher, mesh)
    return matched_loss(logits, boxes, targets, matching.query, images_per_replica, divisors, weights), matching


class Divisors(NamedTuple):
    """The divisors of a batch's loss terms: number of non-empty groups, and of targets (at least one per group)."""

    replicas: jax.Array
    targets: jax.Array


def divisors_of(count: jax.Array, valid: jax.Array, images_per_replica: int) -> Divisors:
    """The divisors of a whole batch, from `count` int32 `[B]` (targets per image) and `valid` bool `[B]`."""
    replicas = jnp.maximum(valid.reshape(-1, images_per_replica).any(1).sum(), 1)
    targets = jnp.maximum(jnp.where(valid, count, 0).sum(), replicas)
    return Divisors(replicas, targets.astype(jnp.float32))


def matched_loss(
    logits: jax.Array,
    boxes: jax.Array,
    targets: Targets,
    query: jax.Array,
    images_per_replica: int,
    divisors: Divisors | None = None,
    weights: LossWeights = WEIGHTS,
) -> LossTerms:
    """Like `set_loss`, with the same `images_per_replica` and `divisors`, for a given `query` `[B, M]` (-1: none)."""
    batch, queries, classes = logits.shape
    matched = query >= 0
    wanted = jnp.full((batch, queries + 1), classes - 1, jnp.int32)
    slot = jnp.where(matched, query, queries)  # unmatched targets are written to an extra column
    wanted = wanted.at[jnp.arange(batch)[:, None], slot].set(targets.labels)[:, :queries]
    groups = targets.valid.reshape(-1, images_per_replica).any(1)
    replicas, divisor = divisors or divisors_of(targets.count, targets.valid, images_per_replica)

    def mean_over_groups(values: jax.Array) -> jax.Array:
        return jnp.where(groups, values, 0.0).sum() / replicas

    ce = mean_over_groups(_group_cross_entropy(logits, wanted, targets.valid, images_per_replica, weights))
    found = jnp.take_along_axis(boxes, jnp.maximum(query, 0)[..., None], axis=1)
    # Unmatched slots compare a constant box with itself, so that the loss and its gradient are zero and finite.
    safe = jnp.array([0.5, 0.5, 1.0, 1.0])
    found = jnp.where(matched[..., None], found, safe)
    goal = jnp.where(matched[..., None], targets.boxes, safe)
    bbox = jnp.abs(found - goal).sum() / divisor
    overlap = giou(cxcywh_to_xyxy(found), cxcywh_to_xyxy(goal))
    giou_loss = jnp.where(matched, 1.0 - overlap, 0.0).sum() / divisor
    total = weights.ce * ce + weights.bbox * bbox + weights.giou * giou_loss

    guess = jax.lax.stop_gradient(logits).argmax(-1)
    hit = jnp.take_along_axis(guess, jnp.maximum(query, 0), axis=1) == targets.labels
    hits = (hit & matched).reshape(len(groups), -1).sum(1)
    pairs = matched.reshape(len(groups), -1).sum(1)
    class_error = mean_over_groups(100.0 - 100.0 * hits / jnp.maximum(pairs, 1))
    objects = (guess != classes - 1).sum(1)
    off = jnp.abs(objects - targets.count).astype(jnp.float32).reshape(-1, images_per_replica)
    present = targets.valid.reshape(-1, images_per_replica)
    cardinality = jnp.where(present, off, 0.0).sum(1) / jnp.maximum(present.sum(1), 1)
    return LossTerms(total, ce, bbox, giou_loss, mean_over_groups(cardinality), class_error)


def _group_cross_entropy(
    logits: jax.Array, wanted: jax.Array, valid: jax.Array, group: int, weights: LossWeights
) -> jax.Array:
    """Mean of -log p over each group's queries, `[B / group]`, weighted by the weights of the target classes."""
    log_p = jax.nn.log_softmax(logits, axis=-1)
    nll = -jnp.take_along_axis(log_p, wanted[..., None], axis=-1)[..., 0]
    no_object = logits.shape[-1] - 1
    object_weight: jax.Array | float = 1.0
    if weights.class_weight != "none":
        object_weight = jnp.asarray(weights.class_weight, jnp.float32)[jnp.minimum(wanted, no_object - 1)]
    weight = jnp.where(wanted == no_object, weights.no_object, object_weight) * valid[:, None]
    per_group = (len(valid) // group, -1)
    numerator = (weight * jnp.where(valid[:, None], nll, 0.0)).reshape(per_group).sum(1)
    return numerator / jnp.maximum(weight.reshape(per_group).sum(1), 1e-12)
