"""Compares attention and its gradient with plain float64 attention without blocks or padding."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from yolos_jax.distributed.mesh import data_mesh, split_over
from yolos_jax.model.attention import attention_weights
from yolos_jax.model.on_cpu import _blocks, attend


def plain(q, k, v, length, given):
    """Computes the output and its gradients with respect to q, k and v in float64 NumPy, ignoring padding keys."""
    q, k, v, given = (np.asarray(x, np.float64) for x in (q, k, v, given))
    out, of_q, of_k, of_v = np.zeros(q.shape), np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    scale = q.shape[-1] ** -0.5
    for b, n in enumerate(length):
        for h in range(q.shape[2]):
            scores = q[b, :, h] @ k[b, :n, h].T * scale
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            out[b, :, h] = weights @ v[b, :n, h]
            of_weights = given[b, :, h] @ v[b, :n, h].T
            of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdims=True)) * scale
            of_q[b, :, h] = of_scores @ k[b, :n, h]
            of_k[b, :n, h] = of_scores.T @ q[b, :, h]
            of_v[b, :n, h] = weights.T @ given[b, :, h]
    return out, of_q, of_k, of_v


def numbers(batch, queries, keys, heads=2, size=8, dtype="float32", spread=1.0):
    """Draws random q, k and v, and a random gradient with respect to the output."""
    rng = np.random.default_rng(0)
    shapes = [(batch, n, heads, size) for n in (queries, keys, keys, queries)]
    return [jnp.asarray(rng.normal(size=shape) * s, dtype) for shape, s in zip(shapes, (spread, 1, 1, 1))]


@partial(jax.jit, static_argnums=0)
def found(block, q, k, v, length, given):
    out, back = jax.vjp(lambda q, k, v: attend(q, k, v, length, block), q, k, v)
    return out, *back(given)


def assert_close(a, b, atol):
    for x, want in zip(a, b, strict=True):
        np.testing.assert_allclose(np.asarray(x, np.float64), want, atol=atol * max(1, abs(want).max()), rtol=0)


@pytest.mark.parametrize("block", [4, 5, 16, 64])
def test_every_length(block):
    """The batch contains one sequence of each length from 1 to 23."""
    n = 23
    args, length = numbers(n, n, n), jnp.arange(1, n + 1)
    got = found(block, *args[:3], length, args[3])
    assert_close(got, plain(*args[:3], np.arange(1, n + 1), args[3]), 2e-6)
    for x in got[2:]:
        for b in range(n):
            assert not np.asarray(x[b, b + 1 :]).any()  # gradients of padding keys and values are exactly zero


@pytest.mark.parametrize("size", [64, 55])
@pytest.mark.parametrize("queries, keys", [(101, 101), (10, 101), (40, 101), (1, 1)])
@pytest.mark.parametrize("dtype, atol", [("float32", 2e-6), ("bfloat16", 2e-2)])
def test_head_sizes_few_queries_and_dtypes(size, queries, keys, dtype, atol):
    args, length = numbers(2, queries, keys, size=size, dtype=dtype), [keys, max(1, keys - 37)]
    got = found(32, *args[:3], jnp.array(length), args[3])
    assert all(x.dtype == dtype for x in got)
    assert_close(got, plain(*args[:3], length, args[3]), atol)


def test_bfloat16_keeps_sums_in_float32():
    """A bfloat16 sum of 4,096 equal weights would stop growing at 256; the mean of the values must be exact."""
    q, k = jnp.zeros((1, 2, 1, 8), "bfloat16"), jnp.zeros((1, 4096, 1, 8), "bfloat16")
    out = attend(q, k, jnp.ones_like(k), jnp.array([4096]), 1)
    np.testing.assert_array_equal(np.asarray(out, np.float32), 1.0)


@pytest.mark.parametrize("block", [8, 64])
def test_extreme_scores(block):
    """Scores of several hundred do not overflow or lose accuracy, even if padding keys have larger ones."""
    q, k, v, given = numbers(2, 33, 33, spread=300.0)
    q, k = abs(q), (-abs(k)).at[:, 20:].set(10.0)
    got = found(block, q, k, v, jnp.array([20, 7]), given)
    want = plain(q, k, v, [20, 7], given)
    assert_close(got[:1] + got[3:], want[:1] + want[3:], 1e-4)  # float32 numbers near 1,000 are 6e-5 apart
    assert all(np.isfinite(x).all() for x in got)


def test_inside_scan_and_checkpoint():
    """Three layers in a scan, each using the previous output as queries, match a plain loop over the layers."""
    q, k, v, given = numbers(2, 21, 21)
    length, layers = jnp.array([21, 13]), jnp.array([0.5, 1.0, 2.0])

    def scanned(q, k, v):
        @jax.checkpoint
        def layer(x, s):
            return attend(x, k * s, v, length, 8), None

        return jax.lax.scan(layer, q, layers)[0]

    out, back = jax.jit(lambda *a: jax.vjp(scanned, *a))(q, k, v)
    xs = [np.float64(q)]
    for s in (0.5, 1.0, 2.0):
        xs.append(plain(xs[-1], k * s, v, [21, 13], given)[0])
    of_x, of_k, of_v = np.float64(given), 0.0, 0.0
    for x, s in reversed(list(zip(xs, (0.5, 1.0, 2.0)))):
        _, of_x, of_layer_k, of_layer_v = plain(x, k * s, v, [21, 13], of_x)
        of_k, of_v = of_k + s * of_layer_k, of_v + of_layer_v
    assert_close((out, *back(given)), (xs[-1], of_x, of_k, of_v), 5e-6)


def test_eight_devices_without_communication():
    """The results are correct, and the compiled program contains no collectives."""
    devices = jax.devices()[:8]
    assert len(devices) == 8
    args, length = numbers(8, 21, 21), jnp.arange(14, 22)
    split = split_over(data_mesh(devices))
    program = jax.jit(lambda *a: found(8, *a), in_shardings=split, out_shardings=split)
    program = program.lower(*args[:3], length, args[3]).compile()
    text = program.as_text()
    assert not [name for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute") if name in text]
    placed = jax.device_put((*args[:3], length, args[3]), split)
    assert_close(program(*placed), plain(*args[:3], np.arange(14, 22), args[3]), 2e-6)


def test_vmap():
    args, length = numbers(6, 9, 9), jnp.arange(4, 10)
    parts = [x.reshape(3, 2, *x.shape[1:]) for x in (*args[:3], length, args[3])]
    got = [x.reshape(6, *x.shape[2:]) for x in jax.vmap(lambda *a: found(4, *a))(*parts)]
    assert_close(got, plain(*args[:3], np.arange(4, 10), args[3]), 2e-6)


@pytest.mark.parametrize("queries", [3401, 100])
def test_no_full_score_matrix_in_memory(queries):
    """With the heads of variant S and 3,401 tokens, temporary memory is smaller than the N x N scores of one head."""
    q, k = (jax.ShapeDtypeStruct((1, n, 6, 64), jnp.float32) for n in (queries, 3401))
    length = jax.ShapeDtypeStruct((1,), jnp.int32)
    forward = jax.jit(lambda *a: attend(*a, 256)).lower(q, k, k, length).compile()
    both = jax.jit(lambda *a: found(256, *a)).lower(q, k, k, length, q).compile()
    for program in (forward, both):
        assert program.memory_analysis().temp_size_in_bytes < 3401**2 * 4
        assert "3401,3401]" not in program.as_text()


def test_attention_weights():
    q, k, v, _ = numbers(3, 7, 19)
    length = jnp.array([1, 10, 19])
    weights = attention_weights(q, k, length)
    np.testing.assert_allclose(jnp.einsum("bhqn,bnhd->bqhd", weights, v), attend(q, k, v, length, 4), atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    "tokens, block, want", [(1829, 384, (5, 384)), (3401, 384, (9, 384)), (4301, 384, (17, 256)), (2501, 384, (8, 320)),
                            (384, 384, (1, 384)), (281, 50, (6, 50)), (281, 70, (5, 64))]
)  # fmt: skip
def test_blocks_cover_all_keys_with_little_padding(tokens, block, want):
    array = jax.ShapeDtypeStruct((1, tokens, 6, 64), jnp.float32)
    count, rows = _blocks(array, array, block)
    assert (count, rows) == want and (count - 1) * rows < tokens <= count * rows and rows <= max(block, 64)
