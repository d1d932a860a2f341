"""A fused float32 attention kernel for NVIDIA GPUs, forward and backward.

FlashAttention-2 (arXiv 2307.08691) in Pallas, compiled by Triton: each program keeps a block of queries (or keys) in
registers and loops over all keys (or queries), so scores are never written to memory. cuDNN has no such kernel for
float32. Tensor cores compute each product as three TF32 products, which is as accurate as float32, or as a single one
if jax's default matmul precision is lower than float32 (for example "tensorfloat32").
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from yolos_jax.model.attention import ATTENTION

ROWS = 64  # queries or keys per program
EXACT, FAST = jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3, jax.lax.DotAlgorithmPreset.TF32_TF32_F32
BASE = math.log2(math.e)  # exponentials are computed as powers of two, for which GPUs have an instruction
LEAST = -1e30  # the score of padding; minus infinity would produce NaN in a block that contains only padding


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Compile-time parameters of a kernel."""

    scale: float  # factor for the scores, including the conversion to base 2
    precision: Any
    interpret: bool

    def dot(self, x: jax.Array, y: jax.Array, turned: bool = False) -> jax.Array:
        """Computes `x @ y`, or `x @ y.T` if `turned`."""
        return triton.dot(x, y, trans_b=turned, precision=self.precision)


def attend_flash(q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array, block: int = 0) -> jax.Array:
    """Implements `attention.Attend` in float32 for head sizes up to 128; `block` is ignored."""
    fast = jax.config.jax_default_matmul_precision in ("tensorfloat32", "default", "bfloat16")  # type: ignore[attr-defined]
    return flash(q, k, v, length, FAST if fast else EXACT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def flash(
    q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array, precision: Any, interpret: bool = False
) -> jax.Array:
    """`attend_flash` with an explicit matmul precision; `interpret` runs the kernels without a GPU."""
    return _forward(q, k, v, length, precision, interpret)[0]


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array, precision: Any, interpret: bool
) -> tuple[jax.Array, tuple]:
    kernel = Kernel(BASE * q.shape[-1] ** -0.5, precision, interpret)
    queries, keys, values = _padded(q), _padded(k), _padded(v)
    out, log_sums = _call(
        functools.partial(_attend_kernel, kernel), kernel, queries, "flash_forward",
        blocks=[queries], wholes=[keys, values], length=length, outputs=[(queries, True), (queries, False)],
    )  # fmt: skip
    out, log_sums = checkpoint_name((out[:, : q.shape[1], :, : q.shape[-1]], log_sums), ATTENTION)
    return out, (q, k, v, length, out, log_sums)


def _backward(precision: Any, interpret: bool, saved: tuple, given: jax.Array) -> tuple:
    q, k, v, length, out, log_sums = saved
    kernel = Kernel(BASE * q.shape[-1] ** -0.5, precision, interpret)
    along = jnp.einsum("bqhd,bqhd->bhq", out, given)  # D in the paper, for the gradient of the softmax
    queries, keys, values, grads = _padded(q), _padded(k), _padded(v), _padded(given)
    along = jnp.pad(along, ((0, 0), (0, 0), (0, -along.shape[2] % ROWS)))
    of_q = _call(
        functools.partial(_query_kernel, kernel), kernel, queries, "flash_query_gradient",
        blocks=[queries, grads, log_sums, along], wholes=[keys, values], length=length, outputs=[(queries, True)],
    )[0]  # fmt: skip
    of_k, of_v = _call(
        functools.partial(_key_kernel, kernel), kernel, keys, "flash_key_gradient",
        blocks=[keys, values], wholes=[queries, grads, log_sums, along], length=length,
        outputs=[(keys, True), (keys, True)],
    )  # fmt: skip
    size, scale = q.shape[-1], q.shape[-1] ** -0.5
    of_q, of_k = of_q * scale, of_k * scale
    return of_q[:, : q.shape[1], :, :size], of_k[:, : k.shape[1], :, :size], of_v[:, : k.shape[1], :, :size], None


flash.defvjp(_forward, _backward)


def _attend_kernel(kernel: Kernel, q_ref: Any, k_ref: Any, v_ref: Any, n_ref: Any, out_ref: Any, sums_ref: Any) -> None:
    """Computes the outputs of a block of queries, and base-2 logarithms of its softmax denominators."""
    q, n = q_ref[...], n_ref[0]

    def meet(j: jax.Array, carry: tuple) -> tuple:
        out, most, total = carry
        at = pl.ds(j * ROWS, ROWS)
        v = v_ref[at, :]
        scores = jnp.where(_real(j, n)[None, :], kernel.dot(q, k_ref[at, :], turned=True) * kernel.scale, LEAST)
        new = jnp.maximum(most, scores.max(1))
        weights = jnp.exp2(scores - new[:, None])
        shrink = jnp.exp2(most - new)
        return out * shrink[:, None] + kernel.dot(weights, v), new, total * shrink + weights.sum(1)

    start = jnp.zeros(q.shape, jnp.float32), jnp.full(ROWS, LEAST, jnp.float32), jnp.zeros(ROWS, jnp.float32)
    out, most, total = jax.lax.fori_loop(0, pl.cdiv(n, ROWS), meet, start)  # skips blocks of padding
    out_ref[...] = out / total[:, None]
    sums_ref[...] = most + jnp.log2(total)


def _query_kernel(
    kernel: Kernel, q_ref: Any, given_ref: Any, sums_ref: Any, along_ref: Any, k_ref: Any, v_ref: Any, n_ref: Any,
    of_q_ref: Any,
) -> None:  # fmt: skip
    """Computes the gradient of a block of queries."""
    q, given, n = q_ref[...], given_ref[...], n_ref[0]
    sums, along = sums_ref[...][:, None], along_ref[...][:, None]

    def meet(j: jax.Array, of_q: jax.Array) -> jax.Array:
        at = pl.ds(j * ROWS, ROWS)
        k = k_ref[at, :]
        weights = jnp.exp2(kernel.dot(q, k, turned=True) * kernel.scale - sums)
        weights = jnp.where(_real(j, n)[None, :], weights, 0.0)
        of_scores = weights * (kernel.dot(given, v_ref[at, :], turned=True) - along)
        return of_q + kernel.dot(of_scores, k)

    of_q_ref[...] = jax.lax.fori_loop(0, pl.cdiv(n, ROWS), meet, jnp.zeros(q.shape, jnp.float32))


def _key_kernel(
    kernel: Kernel, k_ref: Any, v_ref: Any, q_ref: Any, given_ref: Any, sums_ref: Any, along_ref: Any, n_ref: Any,
    of_k_ref: Any, of_v_ref: Any,
) -> None:  # fmt: skip
    """Computes the gradients of a block of keys and values; score blocks are transposed to keys x queries."""
    k, v = k_ref[...], v_ref[...]
    real = _real(pl.program_id(0), n_ref[0])[:, None]

    def meet(i: jax.Array, carry: tuple) -> tuple:
        of_k, of_v = carry
        at = pl.ds(i * ROWS, ROWS)
        q, given = q_ref[at, :], given_ref[at, :]
        weights = jnp.exp2(kernel.dot(k, q, turned=True) * kernel.scale - sums_ref[at][None, :])
        weights = jnp.where(real, weights, 0.0)
        of_scores = weights * (kernel.dot(v, given, turned=True) - along_ref[at][None, :])
        return of_k + kernel.dot(of_scores, q), of_v + kernel.dot(weights, given)

    zero = jnp.zeros(k.shape, jnp.float32)
    of_k_ref[...], of_v_ref[...] = jax.lax.fori_loop(0, q_ref.shape[0] // ROWS, meet, (zero, zero))


def _real(block: jax.Array, n: jax.Array) -> jax.Array:
    """Which keys of a block are not padding, as bool `[ROWS]`."""
    return block * ROWS + jnp.arange(ROWS) < n


def _call(
    function: Any, kernel: Kernel, over: jax.Array, name: str, blocks: list, wholes: list, length: jax.Array,
    outputs: list[tuple[jax.Array, bool]],
) -> list[jax.Array]:  # fmt: skip
    """Runs a kernel for each image, head, and block of rows of `over` `[B, N, heads, d]`.

    The kernel receives a block of each array in `blocks`, all rows of each array in `wholes`, and the image's `length`.
    Each item of `outputs` is `(array, True)` for an output with the shape of the array, `[B, N, heads, d]`, or
    `(array, False)` for an output with one value per row of the array, `[B, heads, N]`.
    """
    batch, rows, heads, size = over.shape

    def spec(like: jax.Array, whole: bool) -> pl.BlockSpec:
        if like.ndim == 4:
            taken = like.shape[1] if whole else ROWS
            return pl.BlockSpec((None, taken, None, size), lambda i, b, h: (b, 0 if whole else i, h, 0))
        taken = like.shape[2] if whole else ROWS
        return pl.BlockSpec((None, None, taken), lambda i, b, h: (b, h, 0 if whole else i))

    def result(like: jax.Array, has_rows: bool) -> Any:
        shape = like.shape if has_rows else (batch, heads, like.shape[1])
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    found = [result(*output) for output in outputs]
    of_image = pl.BlockSpec((1,), lambda i, b, h: (b,))
    return pl.pallas_call(
        function,
        grid=(rows // ROWS, batch, heads),
        in_specs=[*(spec(x, False) for x in blocks), *(spec(x, True) for x in wholes), of_image],
        out_specs=[spec(x, False) for x in found],
        out_shape=found,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=kernel.interpret,
        name=name,
    )(*blocks, *wholes, length.astype(jnp.int32))


def _padded(x: jax.Array) -> jax.Array:
    """Pads `[B, N, heads, d]` for the kernels: N to a multiple of `ROWS`, and d to a power of two of at least 16."""
    size = max(16, 1 << (x.shape[-1] - 1).bit_length())
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % ROWS), (0, 0), (0, size - x.shape[-1])))
