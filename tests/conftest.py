"""Settings that must stand before jax starts, and where the reference numbers are."""

import os

from hypothesis import settings

# 8 forced CPU devices; the CPU client's thread pool must outnumber callbacks that wait in collectives.
os.environ.setdefault("NPROC", "32")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in _flags:
    os.environ["XLA_FLAGS"] = f"{_flags} --xla_force_host_platform_device_count=8".strip()

# No deadline on a busy machine, the same examples every time, no folder left behind.
settings.register_profile("here", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("here")
