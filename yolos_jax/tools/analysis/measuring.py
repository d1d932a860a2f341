"""Times of one thing or of two in turns, the speed that a device can reach, and what the numbers belong to."""

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Dense products in FLOP/s (float32 without TF32, bfloat16) by NVIDIA's data sheets, and what a device's name holds.
PEAKS = {
    "H100 PCIe": (51e12, 756e12), "H100": (67e12, 989e12), "H200": (67e12, 989e12), "A100": (19.5e12, 312e12),
    "V100": (15.7e12, 0.0), "L4": (30.3e12, 121e12), "T4": (8.1e12, 0.0),
}  # fmt: skip


class Peak(NamedTuple):
    """FLOP/s of a device for large matrix products, and where the number is from."""

    flops: float
    origin: str


class Pairs(NamedTuple):
    """Seconds of two things that ran in turns."""

    ours: list[float]
    theirs: list[float]

    @property
    def ratios(self) -> list[float]:
        """Our speed over theirs, of every pair."""
        return [theirs / ours for ours, theirs in zip(self.ours, self.theirs)]


def timed(run: Callable[[], Any]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_pairs(ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int, warm: bool = True) -> Pairs:
    """Runs both once if `warm`, then `pairs` times in turns, each first by turns: a busy machine slows both alike."""
    if warm:
        ours()
        theirs()
    out = Pairs([], [])
    for pair in range(pairs):
        if pair % 2:
            out.theirs.append(timed(theirs))
            out.ours.append(timed(ours))
        else:
            out.ours.append(timed(ours))
            out.theirs.append(timed(theirs))
    return out


def alone(run: Callable[[], Any], times: int) -> list[float]:
    """Seconds of every run, after a first one."""
    run()
    return [timed(run) for _ in range(times)]


def device_peak(device: jax.Device, dtype: str, side: int = 0) -> Peak:
    """As the data sheet of a known GPU says, else measured with a product of two matrices of so many rows."""
    column = ("float32", "bfloat16").index(dtype)
    known = next((flops[column] for name, flops in PEAKS.items() if name in device.device_kind), 0.0)
    if known:
        return Peak(known, "data sheet")
    side = side or (4096 if device.platform == "cpu" else 8192)
    a = jax.device_put(jnp.ones((side, side), dtype), device)
    with jax.default_matmul_precision("float32"):
        product = jax.jit(jnp.matmul).lower(a, a).compile()
    best = min(alone(lambda: jax.block_until_ready(product(a, a)), 5))
    return Peak(2 * side**3 / best, f"measured, a product of {side} x {side}")


def environment(device: jax.Device) -> dict[str, Any]:
    """What the numbers belong to, JSON-ready."""
    import importlib.metadata
    import os

    versions = {}
    for name in ("jax", "jaxlib", "flax", "torch", "transformers"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"device": device.device_kind, "platform": device.platform, "cores": cores, "system": platform.platform(),
            "python": platform.python_version(), "versions": versions}  # fmt: skip


def middle(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)
