"""Attention over sequences whose padding is a tail, never holding an N x N array."""

import math

import jax
import jax.numpy as jnp


def attention_weights(q: jax.Array, k: jax.Array, length: jax.Array) -> jax.Array:
    """Softmax attention weights, float32 `[B, heads, Q, N]`; keys from `length` on get exactly zero.

    Args:
      q: `[B, Q, heads, d]` queries.
      k: `[B, N, heads, d]` keys.
      length: int32 `[B]`, number of real tokens of each sequence, at least 1.
    """
    scores = jnp.einsum("bqhd,bnhd->bhqn", q, k, preferred_element_type=jnp.float32)
    scores *= q.shape[-1] ** -0.5
    real = jnp.arange(k.shape[1]) < length[:, None]
    return jax.nn.softmax(jnp.where(real[:, None, None, :], scores, -jnp.inf), axis=-1)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array, block: int) -> jax.Array:
    """Multi-head attention `[B, Q, heads, d]` in the dtype of `v`, computed for at most `block` queries at a time.

    Memory is O(block * N) forward and backward: weights of a block are computed again for its gradient. On CPU this
    is also about twice as fast as one large product at a few thousand tokens, because a block stays in the cache.

    Args:
      q: `[B, Q, heads, d]`.
      k, v: `[B, N, heads, d]`.
      length: int32 `[B]`, real tokens of each sequence; the rest is ignored.
      block: static, most queries at a time.
    """

    def some(part: jax.Array) -> jax.Array:
        weights = attention_weights(part, k, length).astype(v.dtype)
        return jnp.einsum("bhqn,bnhd->bqhd", weights, v)

    queries = q.shape[1]
    blocks = math.ceil(queries / block)
    if blocks == 1:
        return some(q)
    rows = math.ceil(queries / blocks)
    q = jnp.pad(q, ((0, 0), (0, blocks * rows - queries), (0, 0), (0, 0)))
    q = q.reshape(q.shape[0], blocks, rows, *q.shape[2:]).swapaxes(0, 1)
    out = jax.lax.map(jax.checkpoint(some), q)
    out = out.swapaxes(0, 1).reshape(out.shape[1], blocks * rows, *out.shape[3:])
    return out[:, :queries]
