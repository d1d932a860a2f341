"""A helper process, the witness, that reports why this process ended if this process cannot.

When process 0 of a run dies, jax's runtime aborts the other processes in C++ before Python can print anything. The
witness is forked before jax is initialized, waits on a pipe, and prints the missing error message. It receives the
heartbeats of all processes, so it can name one that hangs.
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

# Seconds between heartbeats, and of silence until a process counts as hanging. The sum is below half of jax's timeout.
SIGN, SILENCE = 3.0, 8.0
ASKS, BYE = b"asks", b"bye"
_writing = threading.RLock()
_writer: int | None = None


def fork_witness(lost: str, alone: str) -> None:
    """Forks the witness if the system can fork; it prints a message if this process ends without calling `farewell`.

    The message is `alone` if this process ends before `joined` is called, and `lost` after that.
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
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # only the main process handles these
        signal.signal(number, signal.SIG_IGN)
    os.close(writer)
    said = b""
    counts: dict[str, tuple[str, float]] = {}  # the latest heartbeat of each process, and when it arrived
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
    if len(silent) == len(counts):  # either process 0 (which relays heartbeats) hangs, or this process did
        waited = said == ASKS and now - last > SILENCE
        silent = {who: silence for who, silence in silent.items() if waited and who.startswith("process 0 ")}
    clauses = ", ".join(f"{who} has not answered for {silence:.0f} s" for who, silence in silent.items())
    found = lost.format(f": {clauses}" if clauses else "")
    os.write(2, f"\nerror: this process was killed, or {found if said else alone}\n".encode())
    os._exit(0)


def joined(index: int) -> None:
    """Starts sending heartbeats to all witnesses; must be called after the processes have connected."""

    def tell() -> None:
        count, ended = 0, threading.Event()
        atexit.register(ended.set)
        with contextlib.suppress(Exception):  # process 0 died, the client is closed, or jax has no such client
            from jax._src.distributed import global_state

            client: Any = global_state.client
            while not ended.wait(SIGN):
                count += 1
                _write(ASKS)
                client.key_value_set(f"yolos_jax/{me}", str(count), allow_overwrite=True)
                found = {key.split("/")[-1]: value for key, value in client.key_value_dir_get("yolos_jax/")}
                _write(json.dumps({"alive": found}).encode())

    _write(b"joined")
    me = f"process {index} on host {socket.gethostname()}"
    threading.Thread(target=tell, name="heartbeats", daemon=True).start()


def is_watched() -> bool:
    """Whether this process is one of several and has a witness."""
    return _writer is not None


def farewell() -> None:
    """Tells the witness that this process ends normally, so that it prints nothing."""
    _write(BYE)


def _write(text: bytes) -> None:
    if _writer is not None:
        with contextlib.suppress(OSError), _writing:  # OSError: the witness was killed
            os.write(_writer, text + b"\n")
