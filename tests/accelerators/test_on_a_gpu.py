"""Tests of numerical results on an NVIDIA GPU (make test-gpu)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from yolos_jax.accelerators.choice import decided
from yolos_jax.accelerators.cudnn import attend_cudnn
from yolos_jax.accelerators.flash import attend_flash
from yolos_jax.images.sequence import pack
from yolos_jax.model.config import Compute, variant
from yolos_jax.model.on_cpu import attend
from yolos_jax.model.yolos import abstract, apply, build

pytestmark = pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")

ROUNDING = 2.0**-8  # relative rounding error of bfloat16


@pytest.mark.parametrize("queries, keys, heads, size", [(333, 333, 6, 64), (101, 1051, 6, 55), (2501, 2501, 3, 64)])
def test_cudnn_is_close_to_float32(queries, keys, heads, size):
    """Compares outputs and gradients for the same bfloat16 inputs, including odd lengths and head size 55."""
    rng = np.random.default_rng(0)
    shapes = (queries, keys, keys, queries)
    *qkv, given = (jnp.asarray(rng.normal(size=(2, n, heads, size)), jnp.bfloat16) for n in shapes)
    length = jnp.asarray([keys, keys // 3], jnp.int32)

    def both(attention, dtype):
        out, pull = jax.vjp(lambda *qkv: attention(*qkv, length), *(x.astype(dtype) for x in qkv))
        return out, *pull(given.astype(dtype))

    found = jax.jit(lambda: both(attend_cudnn, jnp.bfloat16))()
    with jax.default_matmul_precision("float32"):
        want = jax.jit(lambda: both(lambda *a: attend(*a, 1024), jnp.float32))()
    for one, other in zip(found, want):
        one, other = np.float64(one), np.float64(other)
        assert np.abs(one - other).max() < 4 * ROUNDING * np.abs(other).max()
        assert np.linalg.norm(one - other) < 2 * ROUNDING * np.linalg.norm(other)


@pytest.mark.parametrize("queries, keys, heads, size", [(333, 333, 6, 64), (101, 1051, 6, 55), (2501, 2501, 3, 64)])
def test_flash_is_as_accurate_as_float32(queries, keys, heads, size):
    """Compares outputs and gradients with float64 attention.

    The kernel computes each float32 product as three TF32 products.
    """
    rng = np.random.default_rng(0)
    shapes = (queries, keys, keys, queries)
    *qkv, given = (rng.normal(size=(2, n, heads, size)).astype(np.float32) for n in shapes)
    length = np.asarray([keys, keys // 3], np.int32)

    def both(attention, *qkv):
        out, pull = jax.vjp(lambda *qkv: attention(*qkv, length), *qkv)
        return out, *pull(jnp.asarray(given, qkv[0].dtype))

    with jax.default_matmul_precision("float32"):
        found = jax.jit(lambda *a: both(attend_flash, *a))(*qkv)
        with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
            want = both(lambda q, k, v, n: plain(q, k, v, n), *(jnp.asarray(x, jnp.float64) for x in qkv))
    for one, other in zip(found, want):
        assert np.linalg.norm(np.float64(one) - other) < 1e-6 * np.linalg.norm(other)


def plain(q, k, v, length):
    """Softmax attention in the dtype of its arguments."""
    scores = jnp.einsum("bqhd,bnhd->bhqn", q, k) * q.shape[-1] ** -0.5
    real = (jnp.arange(k.shape[1])[None] < length[:, None])[:, None, None]
    return jnp.einsum("bhqn,bnhd->bqhd", jax.nn.softmax(jnp.where(real, scores, -jnp.inf), axis=-1), v)


@pytest.mark.parametrize("name", ["ti", "s_dwr"])
def test_network_outputs_match_the_cpu(name):
    """float32 (no reduced-precision TF32 matmuls) matches the CPU to within 1e-4; bfloat16 with cuDNN, within 0.01."""
    config = variant(name)
    random, sides = np.random.default_rng(0), ((256, 336), (192, 240))
    images = [random.integers(0, 256, (*side, 3), np.uint8) for side in sides]
    patches, grid = pack(images, 400, 2, config.patch_size)
    params = build(config, 0, "from_nothing")[1]

    def outputs(device, dtype):
        compute = decided(Compute(compute_dtype=dtype), config, device)
        on_gpu = {"bfloat16": "cudnn", "float32": "flash"}
        assert compute.attention == (on_gpu[dtype] if device.platform == "gpu" else "blocks")
        graph = abstract(config, compute)[0]
        with jax.default_matmul_precision("float32"):
            out = jax.jit(lambda *a: apply(graph, *a))(*jax.device_put((params, patches, grid), device))
        return jax.tree.map(np.float64, (out.logits, out.boxes))

    want = outputs(jax.devices("cpu")[0], "float32")
    exact, near = (outputs(jax.devices()[0], dtype) for dtype in ("float32", "bfloat16"))
    for one, rough, other in zip(exact, near, want):
        np.testing.assert_allclose(one, other, atol=1e-4, rtol=0)
        # Measured with bfloat16 on a CPU: 0.0045 (logits), 0.0007 (boxes).
        assert np.abs(rough - other).max() < 0.01
