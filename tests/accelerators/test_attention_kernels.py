"""Compares attention for accelerators with plain attention in float64: results, gradients, and error of TF32 products.

The GPU kernels run in interpret mode.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from yolos_jax.accelerators import flash as kernels
from yolos_jax.accelerators.batched import attend_batched
from yolos_jax.accelerators.flash import flash

SHAPES = [(70, 70, 2, 16), (5, 130, 3, 55), (129, 129, 1, 64)]  # queries, keys, heads, head size


def plain(q, k, v, length, given):
    """Plain attention in numpy and float64: the result, and the gradients of q, k and v."""
    q, k, v, given = (np.asarray(x, np.float64) for x in (q, k, v, given))
    scale = q.shape[-1] ** -0.5
    scores = np.einsum("bqhd,bnhd->bhqn", q, k) * scale
    scores = np.where(np.arange(k.shape[1]) < np.asarray(length)[:, None, None, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("bhqn,bnhd->bqhd", weights, v)
    of_weights = np.einsum("bqhd,bnhd->bhqn", given, v)
    of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdims=True)) * scale
    of_q, of_k = np.einsum("bhqn,bnhd->bqhd", of_scores, k), np.einsum("bhqn,bqhd->bnhd", of_scores, q)
    return out, of_q, of_k, np.einsum("bhqn,bqhd->bnhd", weights, given)


def inputs(queries, keys, heads, size):
    """Random q, k, v and int32 lengths of two images, and a gradient of the result."""
    random = np.random.default_rng(0)
    q, k, v, given = (
        random.normal(size=(2, n, heads, size)).astype(np.float32) for n in (queries, keys, keys, queries)
    )
    return q, k, v, np.array([keys // 3, keys], np.int32), given


def found(attend, q, k, v, length, given):
    """The same values as `plain`, for an attention function of (q, k, v, length)."""

    @jax.jit
    def both(q, k, v):
        out, pull = jax.vjp(lambda *qkv: attend(*qkv, length), q, k, v)
        return out, *pull(given)

    return both(q, k, v)


def error(some, others):
    """The largest relative error in norm over pairs of arrays."""
    return max(np.linalg.norm(np.float64(x) - y) / np.linalg.norm(y) for x, y in zip(some, others, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("block", [16, 1024])
def test_batched(shape, block):
    args = inputs(*shape)
    assert error(found(lambda *a: attend_batched(*a, block), *args), plain(*args)) < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_flash(shape):
    """Includes lengths that are not multiples of the block size, and head size 55; gradients of padding are zero."""
    args = inputs(*shape)
    got = found(partial(flash, precision=None, interpret=True), *args)
    assert error(got, plain(*args)) < 1e-6
    for gradient in got[2:]:
        assert not np.asarray(gradient[0, shape[1] // 3 :]).any()


def tf32(x):
    """Rounds float32 to the 10 fraction bits of TF32."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    bits = (bits + 0x0FFF + ((bits >> 13) & 1)) & jnp.uint32(0xFFFFE000)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def emulated(x, y, trans_b=False, precision=None):
    """Emulates a matrix product on a tensor core."""
    y = y.T if trans_b else y
    product = partial(jnp.matmul, precision="highest")
    coarse_x, coarse_y = tf32(x), tf32(y)
    if precision == kernels.FAST:
        return product(coarse_x, coarse_y)
    assert precision == kernels.EXACT
    rest = product(tf32(x - coarse_x), coarse_y) + product(coarse_x, tf32(y - coarse_y))
    return rest + product(coarse_x, coarse_y)


def test_three_tf32_products_are_as_accurate_as_float32(monkeypatch):
    args = inputs(*SHAPES[2])
    want = plain(*args)
    full = error(found(partial(flash, precision=None, interpret=True), *args), want)
    monkeypatch.setattr(kernels.triton, "dot", emulated)
    three, one = (
        error(found(partial(flash, precision=precision, interpret=True), *args), want)
        for precision in (kernels.EXACT, kernels.FAST)
    )
    assert three < 2 * full
    assert one > 100 * full


@pytest.mark.parametrize("setting, precision", [("float32", kernels.EXACT), ("tensorfloat32", kernels.FAST)])
def test_flash_uses_the_default_matmul_precision(setting, precision, monkeypatch):
    asked = []
    monkeypatch.setattr(kernels, "flash", lambda *args: asked.append(args[4]))
    with jax.default_matmul_precision(setting):
        kernels.attend_flash(None, None, None, None)
    assert asked == [precision]
