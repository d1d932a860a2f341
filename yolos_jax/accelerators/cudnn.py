"""Attention in bfloat16 by cuDNN's fused kernels, on NVIDIA GPUs."""

import jax
import jax.numpy as jnp


def attend_cudnn(q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array, block: int = 0) -> jax.Array:
    """`attention.Attend` in bfloat16: no array of size Q x N is stored, forward or backward; `block` is ignored.

    cuDNN needs head sizes that are multiples of 8, and the gradients of some versions need even lengths. So both are
    padded: zeros add nothing to a product, keys from `length` on are ignored, and the outputs of the padded queries are
    dropped.
    """
    queries, size = q.shape[1], q.shape[-1]
    q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, -size % 8))) for x in (q, k, v))
    scale = size**-0.5  # of the true head size
    out = jax.nn.dot_product_attention(q, k, v, scale=scale, key_value_seq_lengths=length, implementation="cudnn")
    return out[:, :queries, :, :size]
