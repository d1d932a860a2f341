"""Environment variables that must be set before jax starts, options of Hypothesis, and a fixture to run programs."""

import atexit
import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings

from yolos_jax.programs.command_line import collect_seldom

collect_seldom()

# Use 8 CPU devices. The CPU client must have more threads than callbacks that wait in collectives.
os.environ.setdefault("NPROC", "32")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in _flags:
    os.environ["XLA_FLAGS"] = f"{_flags} --xla_force_host_platform_device_count=8".strip()

# Compile every small program only once. pytest's worker processes and the programs that tests start inherit the cache.
# (jax 0.10 does not cache programs with a host callback.)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# No deadline, because the machine may be busy; the same examples in every run; no database folder.
settings.register_profile("here", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs files with slow tests first, so that the workers finish at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


class Called(NamedTuple):
    """The result of a program, with the field names of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a program, such as `train` or `train.py`, in this process, with the repository's root as working folder."""

    def call(program, *args):
        monkeypatch.setattr(sys, "argv", [program, *map(str, args)])
        monkeypatch.chdir(Path(__file__).parents[1])
        code = 0
        try:
            importlib.import_module(f"yolos_jax.programs.{program.removesuffix('.py')}").main()
        except SystemExit as end:
            code = end.code
        return Called(code, *capsys.readouterr())

    return call
