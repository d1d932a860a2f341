"""Runs commands in this process as if typed in a shell, either to the end or only until their flags are parsed."""

import argparse
import contextlib
import functools
import importlib
import io
import runpy
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from reference_pack import ROOT

from yolos_jax.programs import command_line

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPTS = PROJECT["scripts"]


def program_of(words: list[str]) -> tuple[Callable[[], object], list[str]]:
    """Returns a function that runs the program of a command, and `sys.argv` for it."""
    name, *flags = words
    if name in SCRIPTS:
        module, _, function = SCRIPTS[name].partition(":")
        return getattr(importlib.import_module(module), function), words
    assert name == "python", f"{name} is unknown; add it here, or explain in NOT_RUN why it is not run"
    if flags[0] == "-m":
        return functools.partial(_run_module, flags[1]), flags[1:]
    file = flags[0] if Path(flags[0]).is_file() else str(ROOT / flags[0])
    return functools.partial(runpy.run_path, file, run_name="__main__"), flags


def _run_module(name: str) -> None:
    """Runs a module the way `python -m` does, even if it has already been imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, name, raising=False)
        runpy.run_module(name, run_name="__main__")


def code_of(words: list[str]) -> object:
    """Runs a command and returns its exit code."""
    run, argv = program_of(words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*argv])
        try:
            run()
        except SystemExit as end:
            return end.code
    return 0


def refusal_of(words: list[str]) -> str:
    """The error message of a program that rejects its flags, or "" if they are valid; it stops after parsing."""
    errors = io.StringIO()
    with _ending_when_parsed(), contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = code_of(words)
        except Parsed:
            return ""
    return (errors.getvalue() or str(code)) if code else ""  # the code is 0 after --help


class Parsed(BaseException):
    """Raised when a program has parsed its flags."""


@contextlib.contextmanager
def _ending_when_parsed() -> Iterator[None]:
    """Makes every program raise `Parsed` as soon as it has parsed its flags."""
    parse, parse_args = command_line.Parser.parse, argparse.ArgumentParser.parse_args
    parse_recipe = command_line.RecipeParser.parse_recipe

    def parsed(self):
        found = parse(self)
        if isinstance(self, command_line.RecipeParser):
            return found  # `parse_recipe` continues
        raise Parsed

    def parsed_recipe(self):
        parse_recipe(self)
        raise Parsed

    def parsed_args(self, args=None, namespace=None):
        found = parse_args(self, args, namespace)
        if args is None:
            raise Parsed
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command_line.Parser, "parse", parsed)
        patch.setattr(command_line.RecipeParser, "parse_recipe", parsed_recipe)
        patch.setattr(argparse.ArgumentParser, "parse_args", parsed_args)
        yield
