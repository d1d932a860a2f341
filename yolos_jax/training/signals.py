"""Handles SIGTERM and Ctrl-C: the run finishes the step, saves and exits."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from yolos_jax.distributed.launch import leave


class Signals:
    """While active, the first SIGTERM or SIGINT requests a stop; a second SIGINT exits immediately.

    It does nothing outside the main thread, where signals cannot be handled.
    """

    def __init__(self) -> None:
        self.number = 0  # number of the signal that this or another process received
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __bool__(self) -> bool:
        return bool(self.number)

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def vote(self) -> int:
        """This process's vote to stop: the number of its signal, or 0."""
        return self.number

    def adopt(self, number: int) -> None:
        """Adopts the signal that the processes have agreed on."""
        self.number = self.number or number

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name if self.number else ""

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            # A checkpoint gets its final name only once it is complete, so a partial one is never mistaken for one.
            _print("stopped immediately, without saving; run the same command to resume from the newest checkpoint.")
            leave(128 + number)
        if not self.number:
            self.number = number
            _print(f"{self.name}: stopping after this step and saving; press Ctrl-C (again) to stop without saving.")


def _print(text: str) -> None:
    os.write(2, f"\n{text}\n".encode())  # print is not safe inside a handler
