"""Times one function, or two alternating functions, and measures the peak speed of a device."""

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from yolos_jax.tools.analysis.costs import environment, timed

# Published peaks for dense matrix products in FLOP/s, in float32 (without TF32) and in bfloat16; 0 means unknown. Keys
# are parts of device names, and the first match is used. Values for GPUs are from NVIDIA's data sheets. Values for
# TPUs are from https://cloud.google.com/tpu/docs/v4, v5e, v5p and v6e, which list no float32 peaks.
PEAKS = {
    "H100 PCIe": (51e12, 756e12), "H100 NVL": (60e12, 835e12), "H100": (67e12, 989e12), "H200": (67e12, 989e12),
    "A100": (19.5e12, 312e12), "A40": (37.4e12, 149.7e12), "L40S": (91.6e12, 362e12), "L4": (30.3e12, 121e12),
    "V100": (15.7e12, 0.0), "T4": (8.1e12, 0.0),
    "TPU v4": (0.0, 275e12), "TPU v5 lite": (0.0, 197e12), "TPU v5": (0.0, 459e12), "TPU v6 lite": (0.0, 918e12),
}  # fmt: skip
VECTORS = {
    "sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16",
    "asimd", "sve", "sve2", "bf16", "i8mm",
}  # fmt: skip


class Peak(NamedTuple):
    """Peak FLOP/s of a device, and the source of the value."""

    flops: float
    origin: str


class Pairs(NamedTuple):
    """Run times in seconds of two functions that ran alternately."""

    ours: list[float]
    theirs: list[float]

    @property
    def ratios(self) -> list[float]:
        """The speed of the first function divided by that of the second, for each pair."""
        return [theirs / ours for ours, theirs in zip(self.ours, self.theirs)]


def in_pairs(ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int, warm: bool = True) -> Pairs:
    """Times both functions `pairs` times, after a warm-up if `warm`; their order alternates."""
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
    """Returns the time of each run in seconds, after a warm-up run."""
    run()
    return [timed(run) for _ in range(times)]


def device_peak(device: jax.Device, dtype: str, side: int = 0) -> Peak:
    """The published peak if known; otherwise, the speed of a product of two `side` x `side` matrices."""
    column = ("float32", "bfloat16").index(dtype)
    known = next((flops[column] for name, flops in PEAKS.items() if name in device.device_kind), 0.0)
    if known:
        return Peak(known, "data sheet")
    side = side or (4096 if device.platform == "cpu" else 8192)
    a = jax.device_put(jnp.ones((side, side), dtype), device)
    with jax.default_matmul_precision("float32"):
        product = jax.jit(jnp.matmul).lower(a, a).compile()
    best = min(alone(lambda: jax.block_until_ready(product(a, a)), 5))
    return Peak(2 * side**3 / best, f"measured with a {side} x {side} matrix product")


def machine(device: jax.Device) -> dict[str, Any]:
    """Returns `costs.environment` and the processor, and prints a summary."""
    found = environment(device) | {"processor": processor()}
    print(f"{found['device']}, {found['cores']} cores of {found['processor']}, jax {found['versions']['jax']}")
    return found


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's name and vector instructions as listed by Linux; on other systems, the name from `platform`."""
    listed: dict[str, str] = {}
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            listed.setdefault(key.strip(), value.strip())
    name = listed.get("model name") or platform.processor() or platform.machine()
    flags = listed.get("flags") or listed.get("Features") or ""
    vectors = [flag for flag in flags.split() if flag in VECTORS]
    return f"{name} ({' '.join(vectors)})" if vectors else name
