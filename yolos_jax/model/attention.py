"""The signature shared by all attention implementations (`Attend`), and attention weights for analysis."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Attend = Callable[[jax.Array, jax.Array, jax.Array, jax.Array, int], jax.Array]
"""Multi-head attention over sequences padded at the end: (q, k, v, length, block) -> out.

`q` and `out` are `[B, Q, heads, d]`, `k` and `v` are `[B, N, heads, d]`, all of the same dtype. Scores and sums are
float32. `length`, int32 `[B]`, is the number of real tokens per sequence, at least 1. The static `block` is the number
of keys or queries processed at a time; some implementations ignore it. Differentiable in reverse mode.
"""

ATTENTION = "attention"  # name of the attention outputs in checkpointing policies


def attention_weights(q: jax.Array, k: jax.Array, length: jax.Array) -> jax.Array:
    """Softmax attention weights, float32 `[B, heads, Q, N]`; padding keys have a weight of exactly 0.

    Args:
      q: `[B, Q, heads, d]` queries.
      k: `[B, N, heads, d]` keys.
      length: int32 `[B]`, number of real tokens in each sequence, at least 1.
    """
    scores = jnp.einsum("bqhd,bnhd->bhqn", q, k, preferred_element_type=jnp.float32)
    scores *= q.shape[-1] ** -0.5
    real = jnp.arange(k.shape[1]) < length[:, None]
    return jax.nn.softmax(jnp.where(real[:, None, None, :], scores, -jnp.inf), axis=-1)
