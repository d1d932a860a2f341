"""CPU implementations: attention, the gradient of a matrix product, and processing large images one at a time.

Attention never stores an N x N array. It computes one head at a time, for all queries and a block of keys. All products
but two therefore have the smaller operand on the right, where CPU libraries copy it into tiles, and no large array is
transposed. The backward pass recomputes the scores from the saved log-sum-exp, as in FlashAttention
(arXiv 2205.14135). `yolos_jax.accelerators` implements attention for GPUs and TPUs.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from yolos_jax.model.attention import ATTENTION

# On a single CPU, images of at least this many patches are processed one at a time, because the activations of several
# do not fit the caches. For four images, S is 4% slower at 336 patches, but 11% faster at 1,344 and 17% at 3,300.
LARGE = 1000


def in_turn(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `apply(graph, params, patches, grid)` to process images of at least `LARGE` patches one at a time."""

    def applied(graph: Any, params: dict, patches: jax.Array, grid: jax.Array) -> Any:
        if len(patches) == 1 or patches.shape[1] < LARGE:
            return apply(graph, params, patches, grid)
        each = jax.lax.map(lambda image: apply(graph, params, image[0][None], image[1][None]), (patches, grid))
        return jax.tree.map(lambda x: x[:, 0], each)

    return applied


def outer_gradient(rows: jax.Array, columns: jax.Array, given: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The gradients of `rows` `[B, N, 1]` and `columns` `[1, 1, D]`; `given` `[B, N, D]` is that of their product.

    As matrix products, these sums are up to 20 times as fast as XLA's fusion of a multiplication and a sum.
    """
    flat = given.reshape(-1, given.shape[-1])
    return (flat @ columns.reshape(-1)).reshape(rows.shape), (rows.reshape(-1) @ flat).reshape(columns.shape)


def product_gradient(x: jax.Array, kernel: jax.Array, given: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The gradients of `x` `[B, N, in]` and `kernel` `[in, out]`; `given` `[B, N, out]` is that of `x @ kernel`.

    For the kernel's gradient, the narrower operand is first transposed in a separate step, and so is the result.
    Otherwise, XLA's compiler transposes the wider one, fused with the operations that produce it, and the product takes
    a third longer.
    """
    barrier = jax.lax.optimization_barrier
    rows, row_gradients = barrier((x.reshape(-1, x.shape[-1]), given.reshape(-1, given.shape[-1])))
    product = partial(jnp.matmul, preferred_element_type=jnp.float32)
    if kernel.shape[0] <= kernel.shape[1]:
        return given @ kernel.T, product(barrier(rows.T), row_gradients)
    return given @ kernel.T, barrier(product(barrier(row_gradients.T), rows)).T


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def attend(q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array, block: int) -> jax.Array:
    """`attention.Attend` over `block` keys at a time, or over all keys at once if there are at most `block` queries.

    It needs O(block * N) memory for one head, in the forward and in the backward pass.
    """
    return _attend(q, k, v, length, block)[0]


_product = partial(jnp.einsum, preferred_element_type=jnp.float32)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array, block: int) -> tuple[jax.Array, tuple]:
    """The output, and the values saved for the backward pass."""
    blocks = _blocks(q, k, block)
    padding = _padding(k, length, blocks)
    # Padding keys are copies of the first key, so that the largest score before masking is always that of a real key.
    real = jnp.arange(k.shape[1]) < length[:, None]
    keys = _by_head(jnp.where(real[..., None, None], k, k[:, :1]), blocks, "edge")

    def head(parts: tuple) -> tuple[jax.Array, jax.Array]:
        q, keys, values = parts

        def meet(carry: tuple, part: tuple) -> tuple[tuple, None]:
            most, total, out = carry
            k, v, padding = part
            scores = _product("bqd,bnd->bqn", q, k)
            new = jnp.maximum(most, scores.max(-1, keepdims=True))
            weights = jnp.exp(scores - new + padding)
            shrink = jnp.exp(most - new)
            total = total * shrink + weights.sum(-1, keepdims=True)
            out = out * shrink + _product("bqn,bnd->bqd", weights.astype(v.dtype), v)
            return (new, total, out), None

        zero = jnp.zeros((*q.shape[:2], 1), jnp.float32)
        start = zero - jnp.inf, zero, jnp.zeros(q.shape, jnp.float32)
        (most, total, out), _ = jax.lax.scan(meet, start, (keys, values, padding))
        return out / total, most + jnp.log(total)

    out, log_sums = jax.lax.map(head, (_by_head(q * q.shape[-1] ** -0.5), keys, _by_head(v, blocks)))
    out, log_sums = checkpoint_name((_by_token(out).astype(v.dtype), log_sums), ATTENTION)
    return out, (q, k, v, length, out, log_sums)


def _gradient(block: int, saved: tuple, given: jax.Array) -> tuple:
    q, k, v, length, out, log_sums = saved
    blocks = _blocks(q, k, block)
    scale = q.shape[-1] ** -0.5
    padding = _padding(k, length, blocks)
    along = _product("bqhd,bqhd->hbq", out, given)[..., None]  # subtracted in the gradient of the softmax

    def head(parts: tuple) -> tuple[jax.Array, tuple]:
        q, keys, values, given, log_sums, along = parts
        # Transposed once for all blocks; the barrier keeps the compiler from repeating this for each block.
        q_turned, given_turned = jax.lax.optimization_barrier((q.swapaxes(1, 2), given.swapaxes(1, 2)))

        def meet(q_gradient: jax.Array, part: tuple) -> tuple[jax.Array, tuple]:
            k, v, padding = part
            weights = jnp.exp(_product("bqd,bnd->bqn", q, k) + padding - log_sums)
            of_v = _product("bdq,bqn->bdn", given_turned, weights.astype(v.dtype))
            of_scores = (weights * (_product("bqd,bnd->bqn", given, v) - along)).astype(k.dtype)
            of_k = _product("bdq,bqn->bdn", q_turned, of_scores)
            return q_gradient + _product("bqn,bnd->bqd", of_scores, k), (of_k, of_v)

        return jax.lax.scan(meet, jnp.zeros(q.shape, jnp.float32), (keys, values, padding))

    parts = _by_head(q * scale), _by_head(k, blocks), _by_head(v, blocks), _by_head(given), log_sums, along
    of_q, (of_k, of_v) = jax.lax.map(head, parts)

    def whole(x: jax.Array) -> jax.Array:  # [heads, blocks, B, d, rows] -> [B, N, heads, d]
        x = x.transpose(2, 1, 4, 0, 3)
        return x.reshape(x.shape[0], -1, *x.shape[3:])[:, : k.shape[1]]

    return (_by_token(of_q) * scale).astype(q.dtype), whole(of_k).astype(k.dtype), whole(of_v).astype(v.dtype), None


attend.defvjp(_attend, _gradient)


def _blocks(q: jax.Array, k: jax.Array, block: int) -> tuple[int, int]:
    """(number of blocks of keys, number of keys in each block)."""
    if q.shape[1] <= block:
        return 1, k.shape[1]
    # Products are fastest with multiples of 64; of those, from two thirds of `block` up, the one with least padding.
    sizes = [rows for rows in range(64, block + 1, 64) if 3 * rows >= 2 * block] or [block]
    rows = min(reversed(sizes), key=lambda rows: -k.shape[1] % rows)
    return math.ceil(k.shape[1] / rows), rows


def _by_head(x: jax.Array, blocks: tuple[int, int] | None = None, behind: str = "constant") -> jax.Array:
    """`[B, N, heads, d]` -> `[heads, B, N, d]`, or with blocks `[heads, blocks, B, rows, d]` (`behind`: pad mode)."""
    x = x.transpose(2, 0, 1, 3)
    if blocks is None:
        return x
    x = jnp.pad(x, ((0, 0), (0, 0), (0, math.prod(blocks) - x.shape[2]), (0, 0)), behind)
    return x.reshape(*x.shape[:2], *blocks, x.shape[-1]).transpose(0, 2, 1, 3, 4)


def _by_token(x: jax.Array) -> jax.Array:
    """`[heads, B, N, d]` -> `[B, N, heads, d]`."""
    return x.transpose(1, 2, 0, 3)


def _padding(k: jax.Array, length: jax.Array, blocks: tuple[int, int]) -> jax.Array:
    """The mask added to the scores, `[blocks, B, 1, rows]`: 0 for real keys, minus infinity for padding."""
    row = jnp.where(jnp.arange(math.prod(blocks))[None] < length[:, None], 0.0, -jnp.inf)
    return row.reshape(k.shape[0], blocks[0], 1, blocks[1]).swapaxes(0, 1)
