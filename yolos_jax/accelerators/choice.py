"""Chooses implementations for a device.

The choice depends on the device that the program is compiled for, and is made before tracing.
`jax.lax.platform_dependent` would trace every implementation on every device, and an exported program cannot contain
calls to cuDNN.
"""

import dataclasses
import re

import jax

from yolos_jax.accelerators.batched import attend_batched
from yolos_jax.accelerators.cudnn import attend_cudnn
from yolos_jax.accelerators.precision import products_of
from yolos_jax.errors import InputError
from yolos_jax.model.attention import Attend
from yolos_jax.model.config import Compute, NetworkConfig
from yolos_jax.model.on_cpu import attend

LARGE_BLOCK = 1024  # minimum number of queries per block on an accelerator, which smaller blocks would underuse
# Sequences are padded to a multiple of this. GPUs would copy operands of odd sizes; TPUs compute in tiles of 128.
MULTIPLES = {"gpu": 64, "tpu": 128}


def decided(compute: Compute, config: NetworkConfig, device: jax.Device) -> Compute:
    """Adapts `compute` to the device and resolves every "auto".

    Raises `InputError` if the device does not support the requested attention.
    """
    chosen = compute.attention
    obstacles = {kind: _obstacle(kind, compute, config.width // config.heads, device) for kind in ("cudnn", "flash")}
    if obstacles.get(chosen):
        raise InputError(f"model.attention={chosen!r} is not available: {obstacles[chosen]}; set model.attention=auto.")
    large = device.platform != "cpu"
    if chosen == "auto":
        fused = [kind for kind, obstacle in obstacles.items() if not obstacle]
        plain = "batched" if large else "blocks"
        chosen = fused[0] if fused else plain
    nvidia = _capability(device) is not None
    unroll = {"auto": "on" if nvidia else "off"}.get(compute.unroll, compute.unroll)
    return dataclasses.replace(
        compute,
        attention=chosen,
        attend=_attend(chosen),
        query_block=max(compute.query_block, LARGE_BLOCK) if large else compute.query_block,
        token_multiple=MULTIPLES.get(device.platform, 1),
        unroll=unroll,
    )


def sentence(compute: Compute, precision: str, device: jax.Device) -> str:
    """Describes the choice in one sentence."""
    products = "" if compute.compute_dtype == "bfloat16" else f", matrix products in {products_of(precision)}"
    unrolled = ", unrolled blocks" if compute.unroll == "on" else ""
    how = f"{compute.compute_dtype}{products}, attention: {compute.attention}{unrolled}"
    return f"computing in {how}, on {device.device_kind}"


def check_matcher(matcher: str) -> None:
    """Raises `InputError` if `matcher` is `host` and jax's CPU backend, which callbacks need, is not available."""
    if matcher != "host":
        return
    try:
        jax.local_devices(backend="cpu")
    except RuntimeError as error:
        raise InputError(
            "matcher=host needs jax's CPU backend in addition to the GPU, but JAX_PLATFORMS excludes it; "
            "set JAX_PLATFORMS=cuda,cpu or --config.matcher=device."
        ) from error


def _attend(kind: str) -> Attend:
    if kind == "flash":  # imports Pallas only if needed
        from yolos_jax.accelerators.flash import attend_flash

        return attend_flash
    ways: dict[str, Attend] = {"blocks": attend, "batched": attend_batched, "cudnn": attend_cudnn}
    return ways[kind]


def _capability(device: jax.Device) -> tuple[int, int] | None:
    """The compute capability of an NVIDIA GPU; None for other devices (AMD GPUs have a name such as gfx90a)."""
    found = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))
    return (int(found[1]), int(found[2])) if device.platform == "gpu" and found else None


def _obstacle(kind: str, compute: Compute, head: int, device: jax.Device) -> str:
    """Why a kernel for NVIDIA GPUs cannot compute attention; empty if it can."""
    name = {"cudnn": "cuDNN attention", "flash": "the flash kernel"}[kind]
    dtype = {"cudnn": "bfloat16", "flash": "float32"}[kind]
    capability = _capability(device)
    if capability is None:
        return f"{name} needs an NVIDIA GPU, but the device is {device.device_kind!r} ({device.platform})"
    if capability[0] < 8:
        has = ".".join(map(str, capability))
        return f"{name} needs compute capability 8.0 or higher, but {device.device_kind!r} has {has}"
    if compute.compute_dtype != dtype:
        return f"{name} computes in {dtype}, but model.compute_dtype is {compute.compute_dtype!r}"
    most = 256 if kind == "cudnn" and capability[0] >= 9 else 128
    if head > most:
        return f"{name} supports head sizes up to {most} on this GPU, but the model has {head}"
    return ""
