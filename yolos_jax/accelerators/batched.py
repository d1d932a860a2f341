"""Attention as large matrix products over all heads, for TPUs and for GPUs without a fused kernel."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from yolos_jax.model.attention import ATTENTION


def attend_batched(q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array, block: int) -> jax.Array:
    """Implements `attention.Attend` in blocks of queries, for all heads at once; the gradient recomputes the scores.

    Memory is O(heads * block * N), forward and backward.
    """
    real = (jnp.arange(k.shape[1]) < length[:, None])[:, None, None]
    count = -(-q.shape[1] // block)
    rows = -(-q.shape[1] // count)
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)

    @partial(jax.checkpoint, prevent_cse=False)
    def attended(q: jax.Array) -> jax.Array:  # `[B, rows, heads, d]`
        scores = jnp.where(real, product("bqhd,bnhd->bhqn", q, k), -jnp.inf)
        weights = jax.nn.softmax(scores, axis=-1)
        return product("bhqn,bnhd->bqhd", weights.astype(v.dtype), v).astype(v.dtype)

    padded = jnp.pad(q * q.shape[-1] ** -0.5, ((0, 0), (0, count * rows - q.shape[1]), (0, 0), (0, 0)))
    blocks = padded.reshape(q.shape[0], count, rows, *q.shape[2:]).swapaxes(0, 1)
    out = jax.lax.map(attended, blocks).swapaxes(0, 1)
    return checkpoint_name(out.reshape(padded.shape)[:, : q.shape[1]], ATTENTION)
