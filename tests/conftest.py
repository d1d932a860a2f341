"""Environment variables for jax, Hypothesis settings, and a fixture that runs the command-line programs."""

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

# These must be set before jax starts. There are 8 CPU devices, and the CPU client needs more threads than there are
# callbacks blocked in collectives.
os.environ.setdefault("NPROC", "32")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in _flags:
    os.environ["XLA_FLAGS"] = f"{_flags} --xla_force_host_platform_device_count=8".strip()

# Cache even quick compilations, so that each program is compiled only once; pytest workers and subprocesses share the
# cache. (jax 0.10 does not cache programs with a host callback.)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# No deadlines, because the machine may be busy; the same examples in every run; no example database.
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
    """Runs a program, such as `train` or `train.py`, in this process, with the repository as working directory."""

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
