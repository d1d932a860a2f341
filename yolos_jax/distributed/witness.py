"""A small process that reports the end of this one when it cannot do so itself.

When process 0 of a run is gone, jax's runtime aborts the others in C++ at once, before Python could print anything.
The witness is forked before jax starts, waits on a pipe, and prints the sentence that is missing.
"""

import atexit
import contextlib
import os
import signal

_writer: int | None = None


def fork_witness(lost: str, alone: str) -> None:
    """Forks the witness, where the system can; it prints one of two if this process ends without `farewell`.

    `alone` is for an end before `joined`, and `lost` for one after it.
    """
    if not hasattr(os, "fork"):
        return
    reader, writer = os.pipe()
    if os.fork() == 0:
        _wait(reader, writer, lost, alone)
    os.close(reader)
    global _writer
    _writer = writer
    atexit.register(farewell)


def _wait(reader: int, writer: int, lost: str, alone: str) -> None:
    """The witness's whole life."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # which are not meant for it
        signal.signal(number, signal.SIG_IGN)
    os.close(writer)
    said = b""
    while part := os.read(reader, 64):
        said += part
    if not said.endswith(b"bye"):
        os.write(2, f"\nerror: this process was killed, or {lost if said else alone}\n".encode())
    os._exit(0)


def is_watched() -> bool:
    """Whether this process is one of several, with a witness."""
    return _writer is not None


def joined() -> None:
    """The processes have found each other."""
    _write(b"joined")


def farewell() -> None:
    """This process ends as it should: nothing needs to be printed for it any more."""
    _write(b"bye")


def _write(text: bytes) -> None:
    if _writer is not None:
        with contextlib.suppress(OSError):  # somebody ended it
            os.write(_writer, text)
