"""Environment variables for processes that tests start."""

import os
import re
from pathlib import Path

HERE = Path(__file__).parent


def cpu_devices(count: int = 1) -> dict[str, str]:
    """This process's environment with `count` CPU devices; other XLA flags are kept."""
    others = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
    flags = f"{others} --xla_force_host_platform_device_count={count}".strip()
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def of_training(count: int = 1, *more: Path) -> dict[str, str]:
    """Like `cpu_devices`, for a training program that can import modules from the folders `more`, but not PyTorch."""
    places = HERE / "without_torch", HERE.parents[1], *more
    return cpu_devices(count) | {"PYTHONPATH": os.pathsep.join(map(str, places))}
