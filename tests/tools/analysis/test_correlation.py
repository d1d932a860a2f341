"""Compares the correlations with scipy, and their tokens with the reference's."""

import functools
import math

import jax
import numpy as np
import pytest
import scipy
from reference_pack import arrays, image_sequence, micro_config, tensors

from yolos_jax.errors import InputError
from yolos_jax.model.config import YolosConfig
from yolos_jax.model.yolos import abstract
from yolos_jax.tools.analysis.correlation import BINS, Correlations, Observed, check_tokens, observe, readings_of
from yolos_jax.weights.reference import from_reference


def by_pairs(one, size, reading, other):
    """The correlation over all pairs, computed by scipy."""
    features = {2: one.hidden, 3: one.logits}

    def cosine(a, b):
        a, b = (np.float64(v) for v in (a, b))
        return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))

    def value(i, j):
        if other >= 2:
            return cosine(features[other][i], features[other][j])
        scale = np.float64(size) if other == 1 else np.ones(2)
        return math.dist(np.float64(one.boxes[i, :2]) * scale, np.float64(one.boxes[j, :2]) * scale)

    pairs = [(i, j) for i in range(len(one.boxes)) for j in range(i)]
    likeness = [cosine(one.tokens[reading][i], one.tokens[reading][j]) for i, j in pairs]
    return scipy.stats.pearsonr(likeness, [value(i, j) for i, j in pairs]).statistic


def test_correlations_match_scipy():
    """Uses random outputs for three images; mean, spread and extremes match numpy."""
    rng, depth = np.random.default_rng(0), 2
    count = len(readings_of(depth))
    sizes = np.array([[640, 480], [100, 300], [50, 50]])
    shapes = (count, 7, 5), (7, 5), (7, 4)
    pictures = [
        Observed(*(rng.normal(size=shape).astype(np.float32) for shape in shapes), rng.uniform(size=(7, 4)))
        for _ in sizes
    ]
    found = Correlations(depth, drawn=2)
    each = np.stack([found.add(one, size) for one, size in zip(pictures, sizes)])
    want = np.array([[[by_pairs(p, s, r, c) for c in range(4)] for r in range(count)] for p, s in zip(pictures, sizes)])
    np.testing.assert_allclose(each, want, atol=1e-12)
    rows = found.rows()
    assert [row["tokens"] for row in rows[::4]] == readings_of(depth) and found.shown == "after block 0"
    for name, values in (
        ("mean", want.mean(0)),
        ("spread", want.std(0)),
        ("least", want.min(0)),
        ("most", want.max(0)),
    ):
        np.testing.assert_allclose([row[name] for row in rows], values.ravel(), atol=1e-12)
    assert {row["images"] for row in rows} == {3}
    assert found.scatter.sum((1, 2)).tolist() == [3 * 21, 3 * 21]  # all pairs of all images
    scattered = found.scatter_rows()
    assert sum(row["pairs"] for row in scattered) == 2 * 3 * 21
    mean = np.average([r["cosine"] for r in scattered], weights=[r["pairs"] for r in scattered])
    exact = np.mean([_mean_cosine(p.tokens[2]) for p in pictures])
    assert abs(mean - exact) < 1 / BINS


def _mean_cosine(tokens):
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    return (unit @ unit.T)[np.triu_indices(len(unit), 1)].mean()


def test_skips_undefined_correlations():
    """Correlations are undefined if all boxes have the same centre."""
    rng, found = np.random.default_rng(0), Correlations(2)
    one = Observed(rng.normal(size=(5, 4, 3)), rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), np.ones((4, 4)))
    values = found.add(one, np.array([10, 10]))
    assert np.isnan(values[:, :2]).all() and np.isfinite(values[:, 2:]).all()
    assert [row["images"] for row in found.rows()[:4]] == [0, 0, 1, 1] and math.isnan(found.rows()[0]["mean"])
    with pytest.raises(InputError, match="has 2 DET tokens; .* needs at least 3"):
        check_tokens(YolosConfig(det_tokens=2))


def test_tokens_match_the_reference():
    """Learned tokens match the reference's weights; outputs of the blocks and the norm match its stored arrays."""
    config, state, z = micro_config("mid"), tensors("model_mid.safetensors"), arrays("model_mid.npz")
    number = (
        next(name for name in z.files if name.endswith("_block_out")).removeprefix("dbg").removesuffix("_block_out")
    )
    batch = image_sequence(z[f"in{number}"], config.patch_size)
    program = jax.jit(functools.partial(observe, abstract(config)[0]))
    found = program(from_reference(state, config), *batch)
    tokens, hidden, logits, boxes = (np.asarray(x)[0] for x in found)
    det = config.det_tokens
    np.testing.assert_array_equal(tokens[0], state["backbone.det_token"][0])
    np.testing.assert_allclose(tokens[1], tokens[0] + state["backbone.pos_embed"][0, -det:], atol=1e-6)
    np.testing.assert_allclose(tokens[2:-1], z[f"dbg{number}_block_out"][:, -det:], atol=1e-4)
    np.testing.assert_allclose(tokens[-1], z[f"det_features{number}"], atol=1e-4)
    np.testing.assert_allclose(logits, z[f"pred_logits{number}"], atol=1e-4)
    np.testing.assert_allclose(boxes, z[f"pred_boxes{number}"], atol=1e-5)
    x = np.float64(z[f"det_features{number}"])
    for layer in range(2):
        x = x @ state[f"class_embed.layers.{layer}.weight"].T + state[f"class_embed.layers.{layer}.bias"]
        x = np.maximum(x, 0)
    np.testing.assert_allclose(hidden, x, atol=1e-4)
