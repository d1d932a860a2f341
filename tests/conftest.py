"""Settings required before jax starts, and the location of the reference values."""

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

# 8 forced CPU devices; the CPU client's thread pool must outnumber callbacks that wait in collectives.
os.environ.setdefault("NPROC", "32")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in _flags:
    os.environ["XLA_FLAGS"] = f"{_flags} --xla_force_host_platform_device_count=8".strip()

# Every small program is compiled once, for pytest's worker processes and for the programs that tests start, which
# inherit this. (jax 0.10 caches no programs with a host callback.)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# No deadline on a busy machine, the same examples every time, no folder left behind.
settings.register_profile("here", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that the workers end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


class Called(NamedTuple):
    """The names are those of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a program, such as `train` or `train.py`, in this process and from the repository's root."""

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
