"""Sends the metrics of a run to TensorBoard and, through separate processes, to other services."""

import contextlib
import importlib.util
import json
import math
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from yolos_jax.address import fcntl
from yolos_jax.errors import InputError, counted, one_line, with_addresses, written
from yolos_jax.tasks.sinks.tensorboard import Board

TENSORBOARD = "tensorboard"
FOLDER = "sinks"  # in the workdir; contains the run's id, and each service's log and the last step sent to it
CHILD = Path(__file__).with_name("child.py")
PATIENCE = 30.0  # time limit in seconds for services to finish after a run
QUIET = 3.0  # seconds of waiting before a message is printed
MOST = 2**22  # maximum size of a service's queue in bytes
UNDEFINED = -1  # the value of COCO metrics without ground truth


def check_installed(names: Sequence[str]) -> None:
    """Raises `InputError` if the package of a service is not installed."""
    for name in names:
        found = importlib.util.find_spec(name) if name != TENSORBOARD else None
        # A service may create a folder with its own name, which Python finds as a namespace package.
        if name != TENSORBOARD and (found is None or found.origin is None):
            raise InputError(
                f"train.log includes {name}, which is not installed: run pip install 'yolos-jax[{name}]', or remove it."
            )


def open_sinks(
    workdir: Path, start: int, names: Sequence[str], config: Mapping[str, Any], say: Callable[[str], object]
) -> "Sinks":
    """Opens the loggers of a run that starts or resumes after `start` steps.

    Args:
      workdir: the run's folder; services write there unless their environment variables set another location.
      names: the loggers; see `train.log` for the choices.
      config: the recipe as JSON-serialisable values.
      say: prints a message during training.

    Raises:
      InputError: a package is not installed, or the workdir cannot be written to.
    """
    check_installed(names)
    board = Board(workdir / TENSORBOARD, start + 1) if TENSORBOARD in names else None
    services = []
    for name in dict.fromkeys(names):
        if name != TENSORBOARD:
            run = {"id": run_id(workdir), "name": run_name(workdir), "folder": str(workdir.absolute())}
            log = workdir / FOLDER / f"{name}.log"
            services.append(Service(name, [sys.executable, "-P", str(CHILD), name], log, say))
            services[-1].send(run | {"config": config})
            print(f"sending metrics to {name}; its messages are in {log}")
    return Sinks(board, services)


def run_name(workdir: Path) -> str:
    """The name of a run's folder; the name of the remote folder if `workdir` is a local copy of it."""
    address = with_addresses(str(workdir))
    return workdir.resolve().name if address == str(workdir) else address.rpartition("/")[2]


def run_id(workdir: Path) -> str:
    """The id of a run for all services. It is stored in the workdir, where a resumed run finds it."""
    path = workdir / FOLDER / "run.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["id"])
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError) as error:
        remedy = f"remove the folder {path.parent}, and the services will start a new run"
        raise InputError(f"{path} is corrupted; {remedy}.") from error
    draft, found = path.with_suffix(".new"), secrets.token_hex(4)
    with written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps({"id": found}), encoding="utf-8")
        draft.replace(path)
    return found


class Sinks:
    """TensorBoard, if used, and services; see `training.task.Sink`. Undefined values are not sent to services."""

    def __init__(self, board: Board | None, services: Sequence["Service"]):
        self.board = board
        self.services = services

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve; `OSError` if TensorBoard's file cannot be written."""
        if self.board is not None:
            self.board.add(step, values)
        defined = {name: float(value) for name, value in values.items() if math.isfinite(value) and value != UNDEFINED}
        for service in self.services:
            service.send({"step": step, "time": time.time(), "values": defined})

    def close(self) -> None:
        """Lets the services finish, and closes TensorBoard's file."""
        finish(self.services)
        if self.board is not None:
            self.board.close()


class Service:
    """A process that reads lines of JSON. It never blocks the run, and its failures are reported in one line.

    It runs in a separate session, so that Ctrl-C does not reach it. It exits at the end of its input, even if the run
    has been killed.

    Args:
      name, command, log: the name of the service, the command line of the process, and the file for its output.
      say: reports a failure.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, say: Callable[[str], object]):
        self.name, self.log, self.say = name, log, say
        self.dropped = 0  # number of messages that were not sent
        self._gone = False  # whether the process exited before the end of the run
        self._waiting = bytearray()
        with log.open("ab") as output:
            self._start = output.tell()
            with contextlib.suppress(OSError):  # a killed run's process may hold the lock; child.py waits
                fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=output, bufsize=0, start_new_session=True
            )
        assert self.process.stdin is not None
        self._pipe = self.process.stdin
        os.set_blocking(self._pipe.fileno(), False)

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends a message. If the process is too slow, drops the message and counts it."""
        if self._pipe.closed:
            return
        self._write()
        line = json.dumps(message).encode() + b"\n"
        if len(self._waiting) + len(line) > MOST:
            self.dropped += 1
        else:
            self._waiting += line
        self._write()
        if self.process.poll() is not None:
            self._pipe.close()
            self._gone = True
            self._say(f"exited unexpectedly ({self._reason()}); the run continues without it")

    def end(self) -> None:
        """Queues the message that the run has ended, after all other messages."""
        self._waiting += json.dumps({"end": True}).encode() + b"\n"

    def _write(self) -> None:
        """Writes as much as the pipe accepts without blocking."""
        try:
            while self._waiting:
                del self._waiting[: os.write(self._pipe.fileno(), self._waiting)]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._waiting.clear()

    def is_finished(self) -> bool:
        """Sends queued messages, then closes the input of the process. Returns whether the process has exited."""
        if not self._pipe.closed:
            self._write()
            if self.process.poll() is not None or not self._waiting:
                self._pipe.close()
        return self.process.poll() is not None

    def close(self) -> None:
        """Kills the process if it has not exited, and reports lost metrics."""
        code = self.process.poll()
        if code is None:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(5)
            self._pipe.close()
            self._say(f"did not finish within {PATIENCE:.0f} s and was stopped; its last points may be missing")
        elif code and not self._gone:
            self._say(f"has failed ({self._reason()}); its last points may be missing")
        if self.dropped:
            self._say(f"was too slow, so {counted(self.dropped, 'line')} of metrics were not sent to it")

    def _say(self, what: str) -> None:
        self.say(f"note: {self.name} {what}")

    def _reason(self) -> str:
        """The last line of the log, or the exit code if there is none."""
        lines: list[str] = []
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(max(self._start, self.log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").split("\n")
        lines = [line.strip() for line in lines if line.strip()]
        return one_line(lines[-1])[:200] if lines else f"exit code {self.process.returncode}"


def finish(services: Sequence[Service]) -> None:
    """Waits up to `PATIENCE` seconds for the services to send everything, then closes them."""
    for service in services:
        service.end()
    start = time.monotonic()
    announced = False
    while left := [service for service in services if not service.is_finished()]:
        waited = time.monotonic() - start
        if waited > PATIENCE:
            break
        if waited > QUIET and not announced:
            announced = True
            left[0].say(f"waiting up to {PATIENCE:.0f} s for {', '.join(service.name for service in left)}")
        time.sleep(0.02)
    for service in services:
        service.close()
