"""Tests which values a GPU program saves for the backward pass, and the effects of padding and unrolling."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.ad_checkpoint import saved_residuals
from jax._src.cudnn import fused_attention_stablehlo as fused

from tests.accelerators.test_choice import H100
from yolos_jax.accelerators.choice import decided
from yolos_jax.model.config import Compute, YolosConfig
from yolos_jax.model.yolos import abstract, apply, build

MICRO = YolosConfig(
    width=32, depth=4, heads=2, init_pe_size=(64, 64), mid_pe_size=(64, 96), num_classes=5, det_tokens=7
)


def batch():
    patches = np.random.default_rng(0).integers(0, 256, (2, 30, 768), np.uint8)
    return patches, np.array([[5, 6], [3, 4]], np.int32)


@pytest.mark.parametrize("dtype, attention", [("bfloat16", "cudnn"), ("float32", "flash")])
def test_blocks_save_only_products_and_attention(dtype, attention, monkeypatch):
    """For each block and token, the input, q, k, v, attention output, projection, and hidden layer are saved.

    Norms and GELU are recomputed, and no value is saved twice, for example in two dtypes or transposed.
    """
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
    compute = decided(Compute(max_side=20, compute_dtype=dtype), MICRO, H100)
    assert compute.attention == attention and compute.unroll == "on"
    graph, shapes = abstract(MICRO, compute)
    patches, grid = batch()

    def loss(params):
        out = apply(graph, params, patches, grid)
        return out.logits.sum() + out.boxes.sum()

    kept = collections.Counter()
    for array, _ in saved_residuals(loss, shapes):
        if array.shape[:2] == (2, 64) and jnp.issubdtype(array.dtype, jnp.floating):  # 38 tokens, padded to 64
            kept[str(array.dtype)] += np.prod(array.shape[2:], dtype=int)
    blocks = MICRO.depth - 1
    each = 1 + 3 + 1 + 1 + 4  # input; q, k and v; attention; projection; hidden layer
    assert kept[dtype] <= (blocks * each + 6) * MICRO.width  # the last block saves its input, norm, keys and values
    if dtype == "bfloat16":
        assert kept["float32"] <= 4 * MICRO.width  # only the norm of the last block


@pytest.mark.parametrize("unroll", ["off", "on"])
def test_padding_and_unrolling_do_not_change_results(unroll):
    patches, grid = batch()
    plain, params = build(MICRO, 0, "from_nothing", Compute(max_side=20))
    other = abstract(MICRO, Compute(max_side=20, token_multiple=16, unroll=unroll))[0]

    def outputs(graph):
        def loss(params):
            out = apply(graph, params, patches, grid, attention_layers=(0, -1))
            return jnp.square(out.logits).mean() + jnp.square(out.boxes).mean(), out

        (_, out), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return out[:4], grads

    (want, want_grads), (found, grads) = outputs(plain), outputs(other)
    for one, two in zip(found, want, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5, rtol=0)
    for one, two in zip(jax.tree.leaves(grads), jax.tree.leaves(want_grads), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5 * max(1e-3, np.abs(two).max()), rtol=0)
