"""Compares costs, matching, losses and gradients with the reference, for both matchers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_pack import arrays
from scipy.optimize import linear_sum_assignment

from yolos_jax.objective.losses import Targets, set_loss
from yolos_jax.objective.matching import match, matching_cost
from yolos_jax.objective.weights import LossWeights

cost_of = jax.jit(matching_cost, static_argnames="weights")
loss_of = jax.jit(set_loss, static_argnames=("images_per_replica", "matcher", "weights"))
pairs_of = jax.jit(match, static_argnames="matcher")
TERMS = ("loss_total", "loss_ce", "loss_bbox", "loss_giou", "cardinality_error", "class_error")


def total_loss(logits, boxes, targets, matcher):
    terms, matching = set_loss(logits, boxes, targets, len(logits), matcher)
    return terms.total, (terms, matching.finite)


gradient_of = jax.jit(jax.grad(total_loss, (0, 1), has_aux=True), static_argnames="matcher")


@functools.cache
def case(n):
    """Returns the logits, boxes and targets of a case, and a lookup function for its other arrays.

    Cases with the same batch size are padded to the same number of targets, so they share a compiled program.
    """
    z = arrays("criterion.npz")
    same = [i for i in cases() if len(z[f"c{i}_pred_logits"]) == len(z[f"c{n}_pred_logits"])]
    most = max(z[f"c{i}_tgt_labels"].shape[1] for i in same)
    found = {key.removeprefix(f"c{n}_"): z[key] for key in z.files if key.startswith(f"c{n}_")}
    for key in ("tgt_labels", "tgt_boxes"):
        found[key] = widen(found[key], most, 1, -1 if key == "tgt_labels" else 0)
    for key in ("cost", "cost_class", "cost_l1", "cost_giou"):
        found[key] = widen(found[key], most, 2)
    labels, boxes, count = (found[f"tgt_{k}"] for k in ("labels", "boxes", "count"))
    targets = Targets(
        jnp.asarray(labels, jnp.int32), jnp.asarray(boxes), jnp.asarray(count, jnp.int32), jnp.ones(len(count), bool)
    )
    return jnp.asarray(found["pred_logits"]), jnp.asarray(found["pred_boxes"]), targets, found.__getitem__


def widen(array, most, axis, value=0):
    """Pads an array to `most` entries along an axis."""
    pad = [(0, 0)] * array.ndim
    pad[axis] = 0, most - array.shape[axis]
    return np.pad(array, pad, constant_values=value)


def cases():
    return range(int(arrays("criterion.npz")["n_cases"]))


def test_costs():
    for n in cases():
        logits, boxes, targets, want = case(n)
        real = np.arange(targets.labels.shape[1]) < want("tgt_count")[:, None, None]
        for weights, key in (
            ((1, 5, 2), "cost"),
            ((1, 0, 0), "cost_class"),
            ((0, 1, 0), "cost_l1"),
            ((0, 0, 1), "cost_giou"),
        ):
            found = cost_of(logits, boxes, targets.labels, targets.boxes, weights=LossWeights(*weights))
            np.testing.assert_allclose(np.where(real, found, 0), np.where(real, want(key), 0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("matcher", ["host", "device"])
def test_pairs(matcher):
    """The optimal matchings in the stored cases are unique, so the pairs must be equal."""
    for n in cases():
        _, _, targets, want = case(n)
        query, finite, _ = pairs_of(want("cost"), targets.count, matcher)
        assert np.asarray(finite).all()
        for image, k in enumerate(want("match_count")):
            pairs = {(int(q), t) for t, q in enumerate(np.asarray(query[image])) if q >= 0}
            assert pairs == set(zip(want("match_query")[image, :k].tolist(), want("match_target")[image, :k].tolist()))


@pytest.mark.parametrize("matcher", ["host", pytest.param("device", marks=pytest.mark.numbers)])
def test_losses_and_gradients(matcher):
    for n in cases():
        logits, boxes, targets, want = case(n)
        grads, (terms, finite) = gradient_of(logits, boxes, targets, matcher)
        assert np.asarray(finite).all()
        for value, key in zip(terms, TERMS):
            np.testing.assert_allclose(value, want(key), rtol=1e-5, atol=1e-7, err_msg=f"case {n} {key}")
        for value, key in zip(grads, ("grad_logits", "grad_boxes")):
            np.testing.assert_allclose(value, want(key), rtol=0, atol=1e-5 * max(np.abs(want(key)).max(), 1e-7))


def test_cross_entropy_is_normalized_within_each_replica():
    """Concatenates cases of equal batch size as replicas; the loss is the mean of the reference's losses."""
    by_size = {}
    for n in cases():
        by_size.setdefault(len(case(n)[0]), []).append(n)
    size, chosen = max(by_size.items(), key=lambda item: len(item[1]))
    chosen = chosen if len(chosen) > 1 else chosen * 2
    most = max(case(n)[2].labels.shape[1] for n in chosen)
    parts = [case(n) for n in chosen]
    targets = Targets(
        jnp.concatenate([widen(t.labels, most, 1, -1) for _, _, t, _ in parts]),
        jnp.concatenate([widen(t.boxes, most, 1) for _, _, t, _ in parts]),
        jnp.concatenate([t.count for _, _, t, _ in parts]),
        jnp.ones(size * len(parts), bool),
    )
    logits, boxes = jnp.concatenate([p[0] for p in parts]), jnp.concatenate([p[1] for p in parts])
    terms, _ = loss_of(logits, boxes, targets, size)
    want = [p[3] for p in parts]
    np.testing.assert_allclose(terms.ce, np.mean([w("loss_ce") for w in want]), rtol=1e-5)
    # In the stored cases, num_boxes is clamped to at least 1 in each case; here, its mean over replicas is clamped.
    total = max(sum(int(w("tgt_count").sum()) for w in want), len(parts))
    for value, key in ((terms.bbox, "loss_bbox"), (terms.giou, "loss_giou")):
        np.testing.assert_allclose(value, sum(w(key) * w("num_boxes") for w in want) / total, rtol=1e-5)
    np.testing.assert_allclose(terms.class_error, np.mean([w("class_error") for w in want]), rtol=1e-5)


def test_weights_apply_to_cost_and_loss():
    """With non-default weights, the loss and the cost are the weighted sums of the reference's terms."""
    weights = LossWeights(ce=2.0, bbox=0.5, giou=3.0)
    for n in cases():
        logits, boxes, targets, want = case(n)
        cost = cost_of(logits, boxes, targets.labels, targets.boxes, weights)
        parts = 2.0 * want("cost_class") + 0.5 * want("cost_l1") + 3.0 * want("cost_giou")
        real = np.arange(targets.labels.shape[1]) < want("tgt_count")[:, None, None]
        np.testing.assert_allclose(np.where(real, cost, 0), np.where(real, parts, 0), atol=2e-5, rtol=0)
        terms, matching = loss_of(logits, boxes, targets, len(logits), weights=weights)
        total = 2.0 * terms.ce + 0.5 * terms.bbox + 3.0 * terms.giou
        np.testing.assert_allclose(terms.total, total, rtol=1e-6)
        for image, k in enumerate(want("tgt_count")):
            rows, columns = linear_sum_assignment(parts[image, :, :k])
            found = np.asarray(matching.query)[image]
            mine = np.flatnonzero(found >= 0)
            np.testing.assert_allclose(
                parts[image, found[mine], mine].sum(), parts[image, rows, columns].sum(), rtol=1e-5, atol=1e-4
            )
