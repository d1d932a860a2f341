"""Attention in bfloat16 with fused cuDNN kernels, for NVIDIA GPUs."""

import jax
import jax.numpy as jnp


def attend_cudnn(q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array, block: int = 0) -> jax.Array:
    """Implements `attention.Attend` in bfloat16 without storing arrays of size Q x N; `block` is ignored.

    cuDNN requires head sizes that are multiples of 8, and some versions require even lengths for gradients, so both are
    padded. This does not change the result: zeros do not affect products, keys from `length` on are ignored, and the
    outputs of padded queries are dropped.
    """
    queries, size = q.shape[1], q.shape[-1]
    q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, -size % 8))) for x in (q, k, v))
    scale = size**-0.5  # from the head size before padding
    out = jax.nn.dot_product_attention(q, k, v, scale=scale, key_value_seq_lengths=length, implementation="cudnn")
    return out[:, :queries, :, :size]
