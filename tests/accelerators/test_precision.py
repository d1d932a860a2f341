"""Tests the `precision` setting and how far bfloat16 results differ from float32."""

import jax
import numpy as np
import pytest

from yolos_jax.accelerators.precision import PRECISIONS, dtype_of, products_of
from yolos_jax.errors import InputError
from yolos_jax.inference.detector import Detector
from yolos_jax.model.config import YolosConfig
from yolos_jax.model.yolos import build
from yolos_jax.training.checkpoint_files import Meta

MICRO = YolosConfig(width=32, depth=3, heads=2, init_pe_size=(64, 64), num_classes=5)


@pytest.fixture(scope="module")
def outputs():
    """For each precision, the logits and boxes of an image and the description of the computation."""
    params = build(MICRO, 0, "from_nothing")[1]
    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    found = {}
    for precision in PRECISIONS:
        detector = Detector(params, Meta(MICRO, {}), short_side=64, precision=precision)
        found[precision] = (*detector.forward([image]), detector.computing)
    return found


def test_dtypes_and_product_precisions():
    assert {p: (dtype_of(p), products_of(p)) for p in PRECISIONS} == {
        "float32": ("float32", "float32"),
        "tensorfloat32": ("float32", "tensorfloat32"),
        "bfloat16": ("bfloat16", "float32"),
    }


def test_bfloat16_is_close_but_different(outputs):
    """Largest differences measured: logits 2.2% of their standard deviation, boxes 0.0006.

    For Ti and S-dWr: logits 3.0% and 4.5%, boxes 0.0007.
    """
    exact, near = outputs["float32"], outputs["bfloat16"]
    spread = np.std(exact[0])
    difference = np.abs(near[0] - exact[0]).max()
    assert 0 < difference < 0.05 * spread
    assert 0 < np.abs(near[1] - exact[1]).max() < 0.0015
    assert "computing in bfloat16, attention: blocks" in near[2]


def test_tensorfloat32_equals_float32_on_cpu(outputs):
    np.testing.assert_array_equal(outputs["tensorfloat32"][0], outputs["float32"][0])
    assert "matrix products in tensorfloat32" in outputs["tensorfloat32"][2]


def test_rejects_unknown_precisions():
    with pytest.raises(InputError, match="precision is 'float16'; choose one of float32, tensorfloat32, bfloat16"):
        Detector(build(MICRO)[1], Meta(MICRO, {}), precision="float16")


def test_precision_of_products(monkeypatch):
    """The precision of a detector overrides jax's default matmul precision."""
    params = build(MICRO, 0)[1]
    with jax.default_matmul_precision("bfloat16"):
        program = Detector(params, Meta(MICRO, {}), short_side=64)._detect.lower(
            params, np.zeros((1, 20, 768), np.uint8), np.array([[4, 5]], np.int32), np.ones((1, 2), np.float32)
        )
    text = program.as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products and all("precision = [HIGHEST, HIGHEST]" in line for line in products)
