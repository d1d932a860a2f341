"""Tests of attention with cuDNN that need no GPU: padding, lowered programs, and sharding."""

import dataclasses
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as fused
from jax.interpreters import mlir
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from yolos_jax.accelerators.choice import decided
from yolos_jax.accelerators.cudnn import attend_cudnn
from yolos_jax.model.config import VARIANTS, Compute, variant
from yolos_jax.model.yolos import abstract, apply

REAL = jax.nn.dot_product_attention
H100 = SimpleNamespace(platform="gpu", compute_capability="9.0", device_kind="NVIDIA H100")


@pytest.fixture
def cudnn(monkeypatch):
    """Pretends that cuDNN 9.10 is installed, so that programs for GPUs can be lowered."""
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)


def inputs(queries, keys, heads, size, batch=2, dtype=np.float32):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(batch, n, heads, size)).astype(dtype) for n in (queries, keys, keys))
    return q, k, v, np.linspace(1, keys, batch).astype(np.int32)


def plain(q, k, v, length):
    """Softmax attention in float64."""
    scores = np.einsum("bqhd,bnhd->bhqn", np.float64(q), np.float64(k)) / np.sqrt(q.shape[-1])
    scores = np.where(np.arange(k.shape[1]) < length[:, None, None, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhqn,bnhd->bqhd", weights / weights.sum(-1, keepdims=True), np.float64(v))


@pytest.mark.parametrize("queries, keys, heads, size", [(7, 7, 2, 55), (4, 9, 3, 64)])
def test_padding_does_not_change_results(queries, keys, heads, size, monkeypatch):
    """Replaces cuDNN with a float32 function with the same requirements; compares with plain attention in float64."""

    def stand_in(q, k, v, *, scale, key_value_seq_lengths, implementation):
        assert implementation == "cudnn" and key_value_seq_lengths.dtype == jnp.int32
        for x in (q, k, v):
            assert x.shape[1] % 2 == 0 and x.shape[3] % 8 == 0
        return REAL(q, k, v, scale=scale, key_value_seq_lengths=key_value_seq_lengths, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    *qkv, length = inputs(queries, keys, heads, size)
    given = np.random.default_rng(1).normal(size=qkv[0].shape)

    @jax.jit
    def value_and_gradient(qkv):
        out, pull = jax.vjp(lambda *qkv: attend_cudnn(*qkv, length), *qkv)
        return out, pull(given.astype(np.float32))

    out, grads = value_and_gradient(qkv)
    np.testing.assert_allclose(out, plain(*qkv, length), atol=1e-5)
    for i, grad in enumerate(grads):  # compared with a directional derivative from finite differences in float64
        along = np.random.default_rng(2).normal(size=qkv[i].shape)
        ends = [plain(*(x + s * along if j == i else x for j, x in enumerate(qkv)), length) for s in (1e-6, -1e-6)]
        want = ((ends[0] - ends[1]) * given).sum() / 2e-6
        np.testing.assert_allclose((np.float64(grad) * along).sum(), want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", VARIANTS)
def test_gpu_programs_call_cudnn(name, cudnn):
    """Forward and backward passes call cuDNN, and no array has the size of all pairs of tokens.

    801 tokens are padded to 832, and the head size 55 of S-dWr to 56. The last block computes only its 100 DET tokens.
    """
    config = dataclasses.replace(variant(name), depth=2)
    compute = decided(Compute(compute_dtype="bfloat16"), config, H100)
    graph, shapes = abstract(config, compute)
    size = jax.ShapeDtypeStruct((2, 2), jnp.int32)
    patches = jax.ShapeDtypeStruct((2, 700, config.patch_values), jnp.uint8)

    def loss(params, patches, grid):
        return apply(graph, params, patches, grid).logits.sum()

    program = jax.jit(jax.grad(loss)).trace(shapes, patches, size).lower(lowering_platforms=("cuda",)).as_text()
    head = {"s_dwr": 56}.get(name, 64)
    for target in ("fmhaSoftmax", "fmhaSoftmaxBackward"):
        calls = re.findall(rf"@__cudnn\${target}\(.*", program)
        assert len(calls) == 2
        assert any(f"tensor<2x832x{config.heads}x{head}xbf16>" in call for call in calls)
        assert any(f"tensor<2x100x{config.heads}x{head}xbf16>" in call for call in calls)
    assert not re.search(r"8(01|32)x8(01|32)x", program)


def test_attention_is_sharded_over_images(cudnn):
    """Compiles for 8 devices, with the cuDNN kernel replaced by jax's attention."""
    seen = []

    def kernel(q, k, v, *rest, scale, **_):
        seen.append(q.shape)
        out = REAL(q, k, v, scale=scale, key_value_seq_lengths=rest[2], implementation="xla")
        return [out]

    mlir.register_lowering(fused._dot_product_attention_fwd_p, mlir.lower_fun(kernel, True), platform="cpu")
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    q, k, v, length = inputs(5, 9, 2, 55, batch=8, dtype=jnp.bfloat16)
    attend = jax.jit(attend_cudnn, in_shardings=split, out_shardings=split)
    program = attend.lower(q, k, v, length).compile()
    assert seen == [(1, 6, 2, 56)]
    assert not re.search("all-gather|all-to-all|all-reduce|collective", program.as_text())
    found = np.float32(program(*(jax.device_put(x, split) for x in (q, k, v, length))))
    np.testing.assert_allclose(found, plain(q, k, v, length), atol=0.03)  # bfloat16 has 8 significant bits
