"""A small process that reports the end of this one when it cannot do so itself.

When process 0 of a run is gone, jax's runtime aborts the others in C++ at once, before Python could print anything.
The witness is forked before jax starts, waits on a pipe, and prints the sentence that is missing. It is told which
processes give signs of life, so that it can name one that hangs.
"""

import atexit
import contextlib
import json
import os
import signal
import socket
import threading
import time
from typing import Any

# Seconds between signs of life, and without one until somebody is silent: their sum is below half a heartbeat timeout.
SIGN, SILENCE = 3.0, 8.0
ASKS, BYE = b"asks", b"bye"
_writing = threading.RLock()
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
    """The witness's main function."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # which are not meant for it
        signal.signal(number, signal.SIG_IGN)
    os.close(writer)
    said = b""
    counts: dict[str, tuple[str, float]] = {}  # the latest sign of life of each process, and when it came
    with os.fdopen(reader, "rb") as lines:
        for line in lines:
            said, last = line.strip(), time.monotonic()
            if said == BYE:
                os._exit(0)
            for who, count in json.loads(said)["alive"].items() if said.startswith(b"{") else ():
                if counts.get(who, ("", 0))[0] != count:
                    counts[who] = count, time.monotonic()
    now = time.monotonic()
    silent = {who: now - came for who, (_, came) in counts.items() if now - came > SILENCE}
    if len(silent) == len(counts):  # signs of life go through process 0
        waited = said == ASKS and now - last > SILENCE
        silent = {who: silence for who, silence in silent.items() if waited and who.startswith("process 0 ")}
    clauses = ", ".join(f"{who} has not answered for {silence:.0f} s" for who, silence in silent.items())
    found = lost.format(f": {clauses}" if clauses else "")
    os.write(2, f"\nerror: this process was killed, or {found if said else alone}\n".encode())
    os._exit(0)


def joined(index: int) -> None:
    """The processes have found each other: from now on, the witnesses of all are told that this one is alive."""

    def tell() -> None:
        count, ended = 0, threading.Event()
        atexit.register(ended.set)
        with contextlib.suppress(Exception):  # the others are gone, the client is closed, or jax has no such client
            from jax._src.distributed import global_state

            client: Any = global_state.client
            while not ended.wait(SIGN):
                count += 1
                _write(ASKS)
                client.key_value_set(f"yolos_jax/{me}", str(count), allow_overwrite=True)
                found = {key.split("/")[-1]: value for key, value in client.key_value_dir_get("yolos_jax/")}
                _write(json.dumps({"alive": found}).encode())

    _write(b"joined")
    me = f"process {index} of host {socket.gethostname()}"
    threading.Thread(target=tell, name="signs of life", daemon=True).start()


def is_watched() -> bool:
    """Whether this process is one of several, with a witness."""
    return _writer is not None


def farewell() -> None:
    """Tells the witness that this process ends normally, so nothing is to be printed."""
    _write(BYE)


def _write(text: bytes) -> None:
    if _writer is not None:
        with contextlib.suppress(OSError), _writing:  # OSError: somebody ended it
            os.write(_writer, text + b"\n")
