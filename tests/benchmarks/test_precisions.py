"""Tests of the emulation of TF32 on a CPU."""

import numpy as np

from benchmarks.precisions import products_of, rounded, truncated
from yolos_jax.inference.detector import Detector
from yolos_jax.model.config import YolosConfig
from yolos_jax.model.yolos import build
from yolos_jax.training.checkpoint_files import Meta


def test_rounds_like_float16():
    """TF32 and float16 both have 10 fraction bits, so normal numbers round to the same value, except for ties."""
    x = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    x = x[(np.abs(x) > 1e-3) & (x.view(np.int32) & 0x1FFF != 0x1000)]
    half = x.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(rounded(x), half)
    towards_zero = np.where(np.abs(half) > np.abs(x), np.nextafter(half.astype(np.float16), np.float16(0)), half)
    np.testing.assert_array_equal(truncated(x), towards_zero.astype(np.float32))
    assert float(rounded(np.float32(1 + 2**-11))) == 1 + 2**-10  # a tie


def test_context_rounds_matrix_products():
    model = YolosConfig(width=32, depth=3, heads=2, init_pe_size=(64, 64), num_classes=5)
    params = build(model, 0, "from_nothing")[1]
    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)

    def logits():
        return Detector(params, Meta(model, {}), short_side=64).forward([image])[0]

    before = logits()
    with products_of(rounded):
        emulated = logits()
    spread = np.std(before)
    assert 1e-5 * spread < np.abs(emulated - before).max() < 0.01 * spread
    np.testing.assert_array_equal(logits(), before)
