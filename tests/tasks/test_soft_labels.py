"""Compares mixing and soft labels with direct computations in numpy."""

import jax
import numpy as np

from yolos_jax.tasks.classification.soft_labels import mix, partners, rank_of_label, soft_cross_entropy


def as_images(patches, columns, patch):
    """`[B, N, 3 p p]` -> `[B, height, width, 3]`."""
    count, tokens = patches.shape[:2]
    x = np.asarray(patches).reshape(count, tokens // columns, columns, patch, patch, 3)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(count, tokens // columns * patch, columns * patch, 3)


def test_mixed_pixels_match_numpy():
    rng = np.random.default_rng(0)
    patches = rng.standard_normal((6, 6, 48)).astype(np.float32)  # 2 x 3 patches of 4 pixels
    share = np.array([0.3, 0.3, 0.6, 0.6, 1, 1], np.float32)
    box = np.array([(0, 0, 0, 0)] * 2 + [(1, 2, 7, 11)] * 2 + [(0, 0, 0, 0)] * 2, np.int32)
    found = as_images(jax.jit(mix, static_argnums=(3, 4))(patches, share, box, 4, 3), 3, 4)
    images = as_images(patches, 3, 4)
    want = images.copy()
    want[0], want[1] = 0.3 * images[0] + 0.7 * images[1], 0.3 * images[1] + 0.7 * images[0]
    want[2, 1:7, 2:11], want[3, 1:7, 2:11] = images[3, 1:7, 2:11], images[2, 1:7, 2:11]
    np.testing.assert_allclose(found, want, atol=1e-6)
    np.testing.assert_array_equal(found[4:], images[4:])


def test_cross_entropy_matches_the_full_distribution():
    rng = np.random.default_rng(1)
    logits, labels = rng.standard_normal((4, 5)).astype(np.float32), np.array([0, 3, 2, 2], np.int32)
    share = np.array([0.2, 0.2, 0.9, 0.9], np.float32)
    target = np.zeros((4, 5))
    for i, other in enumerate((1, 0, 3, 2)):
        target[i, labels[i]] += 0.9 * share[i]
        target[i, labels[other]] += 0.9 * (1 - share[i])
    target += 0.1 / 5
    logs = logits - np.log(np.exp(np.float64(logits)).sum(1, keepdims=True))
    found = soft_cross_entropy(logits, labels, share, 0.1)
    np.testing.assert_allclose(found, -(target * logs).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(partners(labels), [3, 0, 2, 2])


def test_ranks_with_ties_and_non_finite_logits():
    logits = np.array([[1, 3, 2], [2, 2, 2], [2, 2, 2], [0, np.nan, 1], [np.inf, 0, 0]], np.float32)
    found = rank_of_label(logits, np.array([0, 0, 2, 2, 0], np.int32))
    assert found.tolist() == [2, 0, 2, 3, 3]
