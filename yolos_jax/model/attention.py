"""What all implementations of attention share: their signature (`Attend`), and attention weights for analysis."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Attend = Callable[[jax.Array, jax.Array, jax.Array, jax.Array, int], jax.Array]
"""Multi-head attention over sequences whose padding is a tail: (q, k, v, length, block) -> out.

`q` and `out` are `[B, Q, heads, d]`, `k` and `v` `[B, N, heads, d]`, all of one dtype; scores and sums are float32.
`length` is int32 `[B]`, the real tokens of each sequence, at least 1. `block` is static: how many keys or queries are
processed at a time; some implementations ignore it. Differentiable in reverse mode.
"""

ATTENTION = "attention"  # the name of attention's results in checkpointing policies


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
