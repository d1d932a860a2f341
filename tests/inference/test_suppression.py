"""Compares non-maximum suppression with a plain implementation, and with torchvision if installed."""

import numpy as np
import pytest

from yolos_jax.errors import InputError
from yolos_jax.inference.suppression import check_nms, suppressed


def detections(seed, n=100, classes=3):
    """Generates boxes of a few classes around six positions, with some equal scores and some empty boxes."""
    rng = np.random.default_rng(seed)
    place = rng.integers(0, 6, (n, 1)) * 20
    corner = place + rng.normal(0, 2, (n, 2))
    size = rng.uniform(15, 40, (n, 2)) * (rng.random((n, 1)) > 0.1)
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    scores = rng.integers(0, 30, n).astype(np.float32) / 30
    return scores, rng.integers(0, classes, n), boxes


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def greedy(scores, labels, boxes, threshold):
    """The textbook algorithm: take the best remaining box, remove boxes of its class that overlap it, repeat."""
    left = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    boxes, taken = boxes.astype(float).tolist(), []
    while left:
        best = left.pop(0)
        taken.append(best)
        left = [i for i in left if labels[i] != labels[best] or iou(boxes[i], boxes[best]) <= threshold]
    return taken


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0, 0.3, 0.7, 1])
def test_matches_a_plain_implementation(seed, threshold):
    found = detections(seed)
    kept = suppressed(*found, threshold).tolist()
    assert kept == greedy(*found, threshold)
    assert (len(kept) == 100) == (threshold == 1)


def test_matches_torchvision():
    torch, ops = pytest.importorskip("torch"), pytest.importorskip("torchvision.ops")
    scores, labels, boxes = detections(7)
    # Scores are distinct because torchvision does not define the order of ties.
    scores = np.random.default_rng(0).permutation(len(scores)).astype(np.float32)
    theirs = ops.batched_nms(*map(torch.from_numpy, (boxes, scores, labels)), 0.5)
    assert suppressed(scores, labels, boxes, 0.5).tolist() == theirs.tolist()


def test_no_suppression_by_default():
    scores, labels, boxes = detections(0)
    assert suppressed(scores, labels, boxes, None).tolist() == np.argsort(-scores, kind="stable").tolist()
    assert suppressed(*(values[:0] for values in (scores, labels, boxes)), 0.5).tolist() == []


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "0.5"])
def test_rejects_invalid_thresholds(value):
    with pytest.raises(InputError, match="nms is .*; it must be a number between 0 and 1"):
        check_nms(value)
