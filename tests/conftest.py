"""Settings that must stand before jax starts, and where the reference numbers are."""

import os

# 8 forced CPU devices; the CPU client's thread pool must outnumber callbacks that wait in collectives.
os.environ.setdefault("NPROC", "32")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in _flags:
    os.environ["XLA_FLAGS"] = f"{_flags} --xla_force_host_platform_device_count=8".strip()
