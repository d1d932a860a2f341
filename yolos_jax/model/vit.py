"""The parts of a Vision Transformer: linear layer, norm, attention layer, MLP, block.

Plain `nnx.Module`s whose parameters are named kernel, bias and scale. They declare shapes without values; the network
fills in all values at once (`model/init.py`). The argument `layers` of some modules adds a leading axis to every
parameter, to stack that many modules of the same shape.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from yolos_jax.model import on_cpu
from yolos_jax.model.attention import ATTENTION, attention_weights
from yolos_jax.model.config import Compute, NetworkConfig

KERNEL = "kernel"  # name, in checkpointing policies, of kernels after their cast to the compute dtype
_PRODUCTS_AND_NAMED = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(ATTENTION, KERNEL),
)


def worth_saving(primitive: Any, *args: Any, **params: Any) -> Any:
    """The `jax.checkpoint` policy for a block: saves matrix products and attention outputs for the backward pass.

    The rest (norms, GELU) is recomputed, which is faster than moving two and a half times as many bytes. The outputs of
    cuDNN cannot be named, so the policy checks for the primitive.
    """
    if "dot_product_attention_fwd" in primitive.name:
        return True
    return _PRODUCTS_AND_NAMED(primitive, *args, **params)


def parameter(*shape: int) -> nnx.Param:
    """A float32 parameter that has a shape but no values yet."""
    return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.float32))


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x @ kernel` in the dtype of `x`, for `[B, N, in]` and float32 `[in, out]`; differentiable in reverse mode only.

    The kernel's gradient is float32 even if `x` is not, to avoid further rounding when images and devices are summed.
    """
    return _product(x, kernel)[0]


def _product(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    if kernel.dtype != x.dtype:
        kernel = checkpoint_name(kernel.astype(x.dtype), KERNEL)
    return x @ kernel, (x, kernel)


def _product_gradient(saved: tuple[jax.Array, jax.Array], given: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.lax.platform_dependent(*saved, given, cpu=on_cpu.product_gradient, default=_plain_product_gradient)


def _plain_product_gradient(x: jax.Array, kernel: jax.Array, given: jax.Array) -> tuple[jax.Array, jax.Array]:
    rows, row_gradients = x.reshape(-1, x.shape[-1]), given.reshape(-1, given.shape[-1])
    return given @ kernel.T, jnp.matmul(rows.T, row_gradients, preferred_element_type=jnp.float32)


product.defvjp(_product, _product_gradient)


def with_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """`x + bias` in the dtype of `x`, `[B, N, out]`; the bias gradient is summed in float32, as for kernels."""
    return _with_bias(x, bias) if x.dtype == jnp.bfloat16 else x + bias.astype(x.dtype)


@jax.custom_vjp
def _with_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    return x + bias.astype(x.dtype)


def _bias_gradient(_: None, given: jax.Array) -> tuple[jax.Array, jax.Array]:
    return given, given.sum((0, 1), dtype=jnp.float32)


_with_bias.defvjp(lambda x, bias: (_with_bias(x, bias), None), _bias_gradient)


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU (with erf, as in PyTorch), computed in float32 and returned in the dtype of `x`.

    `jax.nn.gelu` uses erfc, which XLA's CPU compiler does not vectorise. On GPUs both are equally fast.
    """
    exact = x.astype(jnp.float32)
    return (0.5 * exact * (1 + jax.lax.erf(exact * 0.5**0.5))).astype(x.dtype)


def _plain_outer_gradient(rows: jax.Array, columns: jax.Array, given: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.vjp(jnp.multiply, rows, columns)[1](given)


def _outer_gradient(factors: tuple[jax.Array, jax.Array], given: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.lax.platform_dependent(*factors, given, cpu=on_cpu.outer_gradient, default=_plain_outer_gradient)


_outer = jax.custom_vjp(jnp.multiply)  # of `[B, N, 1]` and `[1, 1, D]`
_outer.defvjp(lambda *factors: (jnp.multiply(*factors), factors), _outer_gradient)


class LayerNorm(nnx.Module):
    """LayerNorm over the last axis in the dtype of `x`, with float32 statistics and exact variance as in PyTorch."""

    def __init__(self, config: NetworkConfig, layers: tuple[int, ...] = ()):
        self.epsilon = config.layer_norm_eps
        self.scale = parameter(*layers, config.width)
        self.bias = parameter(*layers, config.width)

    def __call__(self, x: jax.Array) -> jax.Array:
        exact = x.astype(jnp.float32)
        mean = exact.mean(-1, keepdims=True)
        inverse_std = jax.lax.rsqrt(jnp.square(exact - mean).mean(-1, keepdims=True) + self.epsilon)
        scale = _outer(inverse_std, self.scale[None, None].astype(x.dtype).astype(jnp.float32))
        return ((x - mean) * scale + self.bias[...].astype(x.dtype)).astype(x.dtype)


class Linear(nnx.Module):
    """`x @ kernel + bias` in the dtype of `x`; kernel `[in, out]`, float32."""

    def __init__(self, size_in: int, size_out: int, layers: tuple[int, ...] = ()):
        self.kernel = parameter(*layers, size_in, size_out)
        self.bias = parameter(*layers, size_out)

    def __call__(self, x: jax.Array) -> jax.Array:
        return with_bias(product(x, self.kernel[...]), self.bias[...])

    def columns(self, x: jax.Array, start: int, stop: int) -> jax.Array:
        """Computes only the outputs `start:stop`."""
        return with_bias(product(x, self.kernel[:, start:stop]), self.bias[start:stop])


class Attention(nnx.Module):
    """Multi-head self-attention with a single qkv projection `[D, 3 D]`."""

    def __init__(self, config: NetworkConfig, compute: Compute, layers: tuple[int, ...] = ()):
        self.heads = config.heads
        self.query_block = compute.query_block
        self.attend = compute.attend or on_cpu.attend
        self.qkv = Linear(config.width, 3 * config.width, layers)
        self.proj = Linear(config.width, config.width, layers)

    def _split(self, x: jax.Array, count: int) -> list[jax.Array]:
        """`[B, N, count * D]` -> `count` arrays `[B, N, heads, D / heads]`."""
        return [part.reshape(*x.shape[:2], self.heads, -1) for part in jnp.split(x, count, axis=-1)]

    def queries_and_keys(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Queries and keys, `[B, N, heads, D / heads]`, for normalised tokens `[B, N, D]`."""
        q, k = self._split(self.qkv.columns(x, 0, 2 * x.shape[-1]), 2)
        return q, k

    def __call__(
        self, x: jax.Array, length: jax.Array, queries: slice, want_weights: slice | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Attention from the selected tokens to all tokens: (`[B, Q, D]`, weights `[B, heads, rows, N]` or None).

        Args:
          x: `[B, N, D]`.
          length: int32 `[B]`, number of real tokens.
          queries: the tokens to compute (all of them, or those that the heads use).
          want_weights: tokens whose attention weights are also returned, or None.
        """
        width = x.shape[-1]
        if queries == slice(None):
            q, k, v = self._split(checkpoint_name(self.qkv(x), ATTENTION), 3)
        else:
            (q,) = self._split(self.qkv.columns(x[:, queries], 0, width), 1)
            k, v = self._split(self.qkv.columns(x, width, 3 * width), 2)
        out = self.attend(q, k, v, length, self.query_block)
        # Concatenates the heads one by one. XLA would turn a plain reshape into a transpose, and on GPUs it finds no
        # tiling for some products with a transposed operand (in the last block, for several images).
        each = out.swapaxes(1, 2)
        out = self.proj(jnp.concatenate([each[:, head] for head in range(self.heads)], axis=-1))
        if want_weights is None:
            return out, None
        asked = q[:, want_weights] if queries == slice(None) else q
        return out, attention_weights(asked, k, length)


class Mlp(nnx.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, config: NetworkConfig, layers: tuple[int, ...] = ()):
        self.fc1 = Linear(config.width, config.mlp_width, layers)
        self.fc2 = Linear(config.mlp_width, config.width, layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(gelu(self.fc1(x)))


class Block(nnx.Module):
    """Pre-norm transformer block. With `queries`, it computes only those tokens, which still attend to all tokens."""

    def __init__(self, config: NetworkConfig, compute: Compute, layers: tuple[int, ...] = ()):
        self.norm1 = LayerNorm(config, layers)
        self.attn = Attention(config, compute, layers)
        self.norm2 = LayerNorm(config, layers)
        self.mlp = Mlp(config, layers)

    def __call__(
        self,
        x: jax.Array,
        length: jax.Array,
        queries: slice = slice(None),
        want_weights: slice | None = None,
        branches: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """`[B, N, D]` -> (`[B, Q, D]`, attention weights of `want_weights` or None).

        `branches` `[B, 2]` scales each image's two branches before they are added (stochastic depth); None means 1.
        """
        mixed, weights = self.attn(self.norm1(x), length, queries, want_weights)
        x = x[:, queries] + _scaled(mixed, branches, 0)
        return x + _scaled(self.mlp(self.norm2(x)), branches, 1), weights


def scan_blocks(
    step: Callable[[jax.Array, Any], tuple[jax.Array, Any]], x: jax.Array, layers: tuple[Any, Any], compute: Compute
) -> tuple[jax.Array, Any]:
    """`jax.lax.scan` of `step` over stacked blocks; `worth_saving` selects the values to save for the backward pass.

    `layers` is (parameters of the blocks, a second input of `step` for each block).
    """
    policy = None if compute.remat else worth_saving
    unroll = compute.unroll == "on"
    # Without a loop, XLA would reuse the original values instead of recomputing them; prevent_cse prevents that.
    saving = jax.checkpoint(step, prevent_cse=unroll, policy=policy)
    return jax.lax.scan(saving, x, layers, unroll=unroll)


def _scaled(x: jax.Array, branches: jax.Array | None, which: int) -> jax.Array:
    return x if branches is None else x * branches[:, which, None, None].astype(x.dtype)


class Head(nnx.Module):
    """Three linear layers with ReLU in between, for class logits or boxes (paper, section 2)."""

    def __init__(self, width: int, size_out: int):
        self.fc1 = Linear(width, width)
        self.fc2 = Linear(width, width)
        self.fc3 = Linear(width, size_out)

    def hidden(self, x: jax.Array) -> jax.Array:
        """The input to the last layer."""
        return jax.nn.relu(self.fc2(jax.nn.relu(self.fc1(x))))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc3(self.hidden(x))


def prepend(cls: jax.Array, det: jax.Array, patches: jax.Array) -> jax.Array:
    """Prepends the tokens shared by all images, `[1, D]` and `[Q, D]`, to `[B, N, D]`; returns `[B, 1 + Q + N, D]`."""
    shared = jnp.concatenate([cls, det])
    return jnp.concatenate([jnp.broadcast_to(shared, (patches.shape[0], *shared.shape)), patches], axis=1)
