"""Terminals and paths that are not UTF-8, and read-only disks."""

import errno
import importlib
import io
import os
import sys
import tomllib

import pytest
from reference_pack import ROOT

from yolos_jax import errors
from yolos_jax.errors import InputError
from yolos_jax.programs import eval as evaluation
from yolos_jax.programs.command_line import Parser
from yolos_jax.weights import checkpoints

SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
BYTES = "/tmp/x\udcff"  # Python's representation of a byte that is not UTF-8


@pytest.fixture
def ascii_terminal(monkeypatch):
    """Returns a function that sets stdout and stderr as PYTHONIOENCODING=ascii:strict does.

    The fixture cannot set them itself, because pytest replaces them before the test starts.
    """

    def start():
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict"))

    return start


def test_unprintable_characters_are_escaped(ascii_terminal):
    ascii_terminal()
    with pytest.raises(UnicodeEncodeError):
        print("é", flush=True)
    Parser("")
    for stream in (sys.stdout, sys.stderr):
        print(f"été 方 {BYTES}", file=stream, flush=True)
        assert stream.buffer.getvalue() == b"\\xe9t\\xe9 \\u65b9 /tmp/x\\udcff\n"


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_program_escapes_unprintable_characters(script, ascii_terminal, monkeypatch):
    ascii_terminal()
    module, _, main = SCRIPTS[script].partition(":")
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit):
        getattr(importlib.import_module(module), main)()
    assert sys.stdout.errors == sys.stderr.errors == "backslashreplace"
    sys.stdout.flush()
    assert b"usage" in sys.stdout.buffer.getvalue()


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("script, flag", [*((script, "--help") for script in SCRIPTS), ("yolos-train", "--list")])
def test_closed_output(script, flag, unbuffered, monkeypatch, capfd):
    """`yolos-train --list | head -1` exits silently, with the shell's exit code for SIGPIPE.

    argparse ignores a failed write of the help text if the text is long or unbuffered.
    """
    reader, writer = os.pipe()
    os.close(reader)
    module, _, main = SCRIPTS[script].partition(":")
    with (
        io.TextIOWrapper(open(writer, "wb", buffering=0), write_through=True)
        if unbuffered
        else open(writer, "w") as out
    ):
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "argv", [script, flag])
        with pytest.raises(SystemExit) as stop:
            getattr(importlib.import_module(module), main)()
    assert stop.value.code in ((0, 141) if flag == "--help" else (141,)) and not capfd.readouterr().err


def test_other_broken_pipes_are_errors(monkeypatch):
    """Only a closed stdout is ignored; the pipe of a dead data worker, for example, is not."""
    reader, writer = os.pipe()
    with open(writer, "w") as out, open(reader):
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(BrokenPipeError), errors.clear_errors():
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_rejects_paths_that_are_not_utf8(call):
    """A path that orbax would reject after the first epoch is rejected before anything is loaded."""
    code, out, error = call("train.py", "--config=yolos_ti", f"--workdir={BYTES}")
    assert code == 2 and not out
    assert error == "error: the path /tmp/x\\udcff has bytes that are not UTF-8; rename it or choose another path.\n"
    for ask in (checkpoints.check_no_weights, checkpoints.newest_step):
        with pytest.raises(InputError, match="not UTF-8"):
            ask(BYTES)
    code, _, error = call("train.py", "--config=yolos_ti", f"--config.data.root={BYTES}", "--workdir=x")
    assert code == 2 and "data.root is '/tmp/x\\udcff'; it must be one line of UTF-8 text" in error


def test_checkpoint_on_a_read_only_disk(tmp_path, monkeypatch):
    """eval.py writes to the checkpoint's folder unless --out is given, and reports an error if it cannot."""

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(errors.tempfile, "TemporaryFile", read_only)
    with pytest.raises(InputError, match=r"eval-2 .*\(Read-only file system\).* --out"):
        evaluation.make_folders(tmp_path / "eval-2", None, False, beside=True)
    with pytest.raises(InputError, match=r"\(Read-only file system\)\.$"):
        evaluation.make_folders(tmp_path / "named", None, False)
