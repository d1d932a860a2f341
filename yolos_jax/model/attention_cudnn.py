"""Attention by cuDNN on NVIDIA GPUs, and the choice between it and attention in blocks.

The choice is made before anything is traced, from the device that a program is for. `jax.lax.platform_dependent` would
trace both ways everywhere, and an exported program cannot contain cuDNN's calls.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp

from yolos_jax.errors import InputError
from yolos_jax.model.config import Compute, NetworkConfig

GPU_BLOCK = 1024  # queries at a time on a GPU, which smaller blocks would not fill


def attend_cudnn(q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array) -> jax.Array:
    """As `attention.attend`, by cuDNN's fused kernels: nothing of size Q x N is in memory, forward or backward.

    cuDNN needs head sizes that are multiples of 8, and the gradients of some versions need even lengths. So both are
    padded: zeros add nothing to a product, keys from `length` on are ignored, and the outputs of the padded queries are
    dropped.

    Args:
      q: bfloat16 `[B, Q, heads, d]`.
      k, v: bfloat16 `[B, N, heads, d]`.
      length: int32 `[B]`, real tokens of each sequence.
    """
    queries, size = q.shape[1], q.shape[-1]
    q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, -size % 8))) for x in (q, k, v))
    scale = size**-0.5  # of the true head size
    out = jax.nn.dot_product_attention(q, k, v, scale=scale, key_value_seq_lengths=length, implementation="cudnn")
    return out[:, :queries, :, :size]


def decided(compute: Compute, config: NetworkConfig, device: jax.Device) -> Compute:
    """`compute` with `attention` decided for the device that a program runs on: "blocks" or "cudnn".

    On GPUs, "auto" also makes blocks larger. `InputError` if cuDNN is asked for and not available.
    """
    obstacle = _obstacle(compute, config.width // config.heads, device)
    if compute.attention == "cudnn" and obstacle:
        raise InputError(f"model.attention is 'cudnn', but {obstacle}; set model.attention to auto or blocks.")
    if compute.attention != "auto":
        return compute
    if not obstacle:
        return dataclasses.replace(compute, attention="cudnn")
    block = max(compute.query_block, GPU_BLOCK) if device.platform == "gpu" else compute.query_block
    return dataclasses.replace(compute, attention="blocks", query_block=block)


def _obstacle(compute: Compute, head: int, device: jax.Device) -> str:
    """Why cuDNN cannot compute attention; empty if it can."""
    capability = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))
    if device.platform != "gpu" or capability is None:  # AMD's capabilities are names like gfx90a
        return f"cuDNN needs an NVIDIA GPU and the device is {device.device_kind!r} ({device.platform})"
    if int(capability[1]) < 8:
        return f"cuDNN's attention needs a GPU of compute capability 8.0 and {device.device_kind!r} has {capability[0]}"
    if compute.compute_dtype != "bfloat16":
        return f"cuDNN's attention computes in bfloat16 and model.compute_dtype is {compute.compute_dtype!r}"
    most = 256 if int(capability[1]) >= 9 else 128
    if head > most:
        return f"cuDNN's attention takes heads of at most {most} numbers on this GPU and these have {head}"
    return ""
