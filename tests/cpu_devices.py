"""The environment of a process that a test starts."""

import os
import re


def cpu_devices(count: int = 1) -> dict[str, str]:
    """This process's environment, with so many CPU devices; XLA's other flags stay."""
    others = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
    flags = f"{others} --xla_force_host_platform_device_count={count}".strip()
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
