"""Settings that must stand before jax starts, and where the reference numbers are."""

import os

import pytest
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


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Runs of the same shapes compile once in a session (programs with a host callback are never cached)."""
    import jax  # after the settings above

    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    yield
    jax.config.update("jax_compilation_cache_dir", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that two workers end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
