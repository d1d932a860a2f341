"""The parts of a Vision Transformer: linear layer, norm, attention layer, MLP, block.

Plain `nnx.Module`s whose parameters are named kernel/bias/scale. They declare
shapes; what the parameters start from is in `model/init.py`.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from yolos_jax.model.attention import attend, attention_weights
from yolos_jax.model.config import YolosConfig


def zeros(*shape: int) -> nnx.Param:
    """A float32 parameter."""
    return nnx.Param(jnp.zeros(shape, jnp.float32))


def layer_norm(config: YolosConfig) -> nnx.LayerNorm:
    """LayerNorm over the width with the config's epsilon; the exact variance, as PyTorch computes it."""
    return nnx.LayerNorm(
        config.width,
        epsilon=config.layer_norm_eps,
        dtype=config.compute_dtype,
        use_fast_variance=False,
        rngs=nnx.Rngs(0),
    )


class Linear(nnx.Module):
    """`x @ kernel + bias` in the dtype of `x`; kernel `[in, out]`, float32."""

    def __init__(self, size_in: int, size_out: int):
        self.kernel = zeros(size_in, size_out)
        self.bias = zeros(size_out)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel[...].astype(x.dtype) + self.bias[...].astype(x.dtype)

    def columns(self, x: jax.Array, start: int, stop: int) -> jax.Array:
        """The outputs `start:stop` only, without computing the others."""
        return x @ self.kernel[:, start:stop].astype(x.dtype) + self.bias[start:stop].astype(x.dtype)


class Attention(nnx.Module):
    """Multi-head self-attention with one joint qkv projection `[D, 3 D]`."""

    def __init__(self, config: YolosConfig):
        self.config = config
        self.qkv = Linear(config.width, 3 * config.width)
        self.proj = Linear(config.width, config.width)

    def _split(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], -1, self.config.heads, self.config.head_size)

    def __call__(
        self, x: jax.Array, length: jax.Array, queries: slice, want_weights: slice | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Attention of the tokens `queries` over all tokens.

        Args:
          x: `[B, N, D]`.
          length: int32 `[B]`, real tokens.
          queries: which tokens ask (all of them, or the DET tokens).
          want_weights: tokens whose attention weights to return too, or None.

        Returns:
          (`[B, Q, D]`, weights `[B, heads, rows, N]` or None)
        """
        width = self.config.width
        if queries == slice(None):
            q, k, v = jnp.moveaxis(self._split(self.qkv(x)), 2, 0)
        else:
            q = self._split(self.qkv.columns(x[:, queries], 0, width))[:, :, 0]
            k, v = jnp.moveaxis(self._split(self.qkv.columns(x, width, 3 * width)), 2, 0)
        out = attend(q, k, v, length, self.config.query_block)
        out = self.proj(out.reshape(*out.shape[:2], width))
        if want_weights is None:
            return out, None
        asked = q[:, want_weights] if queries == slice(None) else q
        return out, attention_weights(asked, k, length)


class Mlp(nnx.Module):
    """Two layers with the exact (erf) GELU between them."""

    def __init__(self, config: YolosConfig):
        self.fc1 = Linear(config.width, config.mlp_width)
        self.fc2 = Linear(config.mlp_width, config.width)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class Block(nnx.Module):
    """Pre-norm transformer block.

    Called with `queries`, it returns only those tokens (keys and values still
    come from all): the last block needs nothing but its DET tokens.
    """

    def __init__(self, config: YolosConfig):
        self.norm1 = layer_norm(config)
        self.attn = Attention(config)
        self.norm2 = layer_norm(config)
        self.mlp = Mlp(config)

    def __call__(
        self,
        x: jax.Array,
        length: jax.Array,
        queries: slice = slice(None),
        want_weights: slice | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """`[B, N, D]` -> (`[B, Q, D]`, attention weights of `want_weights` or None)."""
        mixed, weights = self.attn(self.norm1(x), length, queries, want_weights)
        x = x[:, queries] + mixed
        return x + self.mlp(self.norm2(x)), weights


class Head(nnx.Module):
    """Three layers with ReLU between: class logits or box numbers (paper, section 2)."""

    def __init__(self, width: int, size_out: int):
        self.fc1 = Linear(width, width)
        self.fc2 = Linear(width, width)
        self.fc3 = Linear(width, size_out)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc3(jax.nn.relu(self.fc2(jax.nn.relu(self.fc1(x)))))
