"""Compares the class-weighted cross entropy with NumPy and PyTorch; without weights, the loss is unchanged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from yolos_jax.objective import losses
from yolos_jax.objective.losses import Targets, matched_loss
from yolos_jax.objective.matching import matching_cost
from yolos_jax.objective.weights import LossWeights

BATCH, QUERIES, CLASSES, MOST = 4, 7, 5, 3
WEIGHT = (0.5, 1.0, 4.0, 0.0, 2.5)


@pytest.fixture(scope="module")
def case():
    """Returns logits, boxes, targets, matched queries int32 `[B, M]`, and the target class of each query `[B, Q]`."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (BATCH, QUERIES, CLASSES + 1)).astype(np.float32)
    boxes = random.uniform(0.2, 0.5, (BATCH, QUERIES, 4)).astype(np.float32)
    count = np.int32([3, 0, 2, 1])
    labels = np.full((BATCH, MOST), -1, np.int32)
    query = np.full((BATCH, MOST), -1, np.int32)
    wanted = np.full((BATCH, QUERIES), CLASSES)
    for image, n in enumerate(count):
        labels[image, :n] = random.integers(0, CLASSES, n)
        query[image, :n] = random.permutation(QUERIES)[:n]
        wanted[image, query[image, :n]] = labels[image, :n]
    goal = random.uniform(0.2, 0.5, (BATCH, MOST, 4)).astype(np.float32)
    targets = Targets(*map(jnp.asarray, (labels, goal, count, np.ones(BATCH, bool))))
    return jnp.asarray(logits), jnp.asarray(boxes), targets, jnp.asarray(query), wanted


def by_hand(logits, wanted, weight, group):
    """Returns the mean over groups of sum(-w log p) / sum(w), which is PyTorch's cross_entropy for one group."""
    logits = np.asarray(logits, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    found = []
    for start in range(0, BATCH, group):
        above = below = 0.0
        for image in range(start, start + group):
            for each, goal in zip(log_p[image], wanted[image]):
                above -= weight[goal] * each[goal]
                below += weight[goal]
        found.append(above / below)
    return np.mean(found)


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("weight", [WEIGHT, (1.0,) * CLASSES])
def test_cross_entropy(case, weight, group):
    logits, boxes, targets, query, wanted = case
    weights = LossWeights(no_object=0.2, class_weight=weight)
    terms = matched_loss(logits, boxes, targets, query, group, weights=weights)
    np.testing.assert_allclose(terms.ce, by_hand(logits, wanted, (*weight, 0.2), group), rtol=1e-5)
    plain = matched_loss(logits, boxes, targets, query, group, weights=LossWeights(no_object=0.2))
    for name in ("bbox", "giou", "cardinality_error", "class_error"):
        assert getattr(terms, name) == getattr(plain, name)
    if weight == (1.0,) * CLASSES:
        assert terms.ce == plain.ce


def reference_cross_entropy(logits, wanted, valid, group, weights):
    """Computes the reference's cross entropy, with weight 1 for every class except "no object"."""
    log_p = jax.nn.log_softmax(logits, axis=-1)
    nll = -jnp.take_along_axis(log_p, wanted[..., None], axis=-1)[..., 0]
    weight = jnp.where(wanted == logits.shape[-1] - 1, weights.no_object, 1.0) * valid[:, None]
    per_group = (len(valid) // group, -1)
    numerator = (weight * jnp.where(valid[:, None], nll, 0.0)).reshape(per_group).sum(1)
    return numerator / jnp.maximum(weight.reshape(per_group).sum(1), 1e-12)


def test_default_weights_compile_to_the_reference_loss(case, monkeypatch):
    """The programs are identical, so their results are bit-equal."""
    *values, _ = case

    def program(weights):
        loss = jax.jit(lambda *inputs: matched_loss(*inputs, 1, weights=weights))
        return loss.lower(*values).as_text()

    none, weighted = program(LossWeights()), program(LossWeights(class_weight=WEIGHT))
    monkeypatch.setattr(losses, "_group_cross_entropy", reference_cross_entropy)
    assert program(LossWeights()) == none != weighted


def test_matching_costs_do_not_change(case):
    logits, boxes, targets, _, _ = case
    costs = [
        matching_cost(logits, boxes, targets.labels, targets.boxes, weights)
        for weights in (LossWeights(), LossWeights(class_weight=WEIGHT))
    ]
    np.testing.assert_array_equal(*costs)


def test_rejects_unresolved_inverse(case):
    """`inverse` depends on the class counts, so callers of the loss must replace it with weights."""
    logits, boxes, targets, query, _ = case
    with pytest.raises((TypeError, ValueError)):
        matched_loss(logits, boxes, targets, query, 1, weights=LossWeights(class_weight="inverse"))


@pytest.mark.parity
@pytest.mark.parametrize("group", [1, 4])
def test_values_and_gradients_match_torch(case, group):
    torch = pytest.importorskip("torch")
    logits, boxes, targets, query, wanted = case
    theirs = torch.tensor(np.asarray(logits), requires_grad=True)
    weight = torch.tensor([*WEIGHT, 0.1])
    parts = [
        torch.nn.functional.cross_entropy(
            theirs[start : start + group].flatten(0, 1), torch.tensor(wanted[start : start + group]).flatten(), weight
        )
        for start in range(0, BATCH, group)
    ]
    loss = sum(parts) / len(parts)
    loss.backward()

    def ours(values):
        return matched_loss(values, boxes, targets, query, group, weights=LossWeights(class_weight=WEIGHT)).ce

    value, gradient = jax.value_and_grad(ours)(logits)
    np.testing.assert_allclose(value, loss.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), atol=1e-7)
