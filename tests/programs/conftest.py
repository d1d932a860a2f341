"""Programs called in this process."""

import importlib
import sys
from typing import NamedTuple

import pytest
from reference_pack import ROOT


class Called(NamedTuple):
    """As `subprocess.CompletedProcess` calls them."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a program, such as `train` or `train.py`, from the repository's root."""

    def call(program, *args):
        monkeypatch.setattr(sys, "argv", [program, *map(str, args)])
        monkeypatch.chdir(ROOT)
        code = 0
        try:
            importlib.import_module(f"yolos_jax.programs.{program.removesuffix('.py')}").main()
        except SystemExit as end:
            code = end.code
        return Called(code, *capsys.readouterr())

    return call
