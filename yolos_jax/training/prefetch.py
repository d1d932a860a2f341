"""Prefetches batches to the devices; all processes stop at the same step."""

import multiprocessing
import queue
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from yolos_jax.data.loader import Loaded
from yolos_jax.data.workers import dead_worker
from yolos_jax.distributed.processes import Processes
from yolos_jax.errors import InputError
from yolos_jax.training.signals import Signals

AHEAD = 2  # prefetched batches on the devices
POLL = 0.25  # seconds between checks of workers and signals


class DeviceBatch(NamedTuple):
    """A batch whose arrays are on the devices, split along the first axis."""

    step: int  # index in the plan
    arrays: Any  # input of the loss
    indices: np.ndarray  # int64, data set indices of this process's examples, -1 for an empty slot
    bucket: int  # padded length of every sequence, in patches
    real: int  # number of patches in this process's share that are not padding


class Batches:
    """Iterates over a run's batches, which a thread moves to the devices; a context manager.

    The iteration ends after the last step, or when any process has received a signal. It raises `InputError`, in
    all processes at the same step, if a data worker died or an image cannot be read (unless `skip_unreadable`).
    """

    def __init__(
        self, loaded: Generator[Loaded], sharding: Any, processes: Processes, signals: Signals, skip_unreadable: bool
    ):
        self._loaded = loaded
        self._sharding = sharding
        self._processes = processes
        self._signals = signals
        self._skip_unreadable = skip_unreadable
        self._ready: queue.Queue = queue.Queue(AHEAD)
        self._closed = False
        self.waited = 0.0  # seconds spent waiting for data
        self.skipped: list[str] = []  # one message per unreadable image in this process's share
        self._workers: dict[int, multiprocessing.process.BaseProcess] = {}
        self._thread = threading.Thread(target=self._fill, daemon=True, name="prefetch")

    def __enter__(self) -> "Batches":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._thread.join(timeout=60.0)  # grain waits up to 25 seconds for a worker

    def __iter__(self) -> Iterator[DeviceBatch]:
        while True:
            batch, signal = self._processes.agree_and_vote(self._next, self._signals.vote)
            self._signals.adopt(signal)
            if signal or batch is None:
                return
            yield batch

    def _next(self) -> DeviceBatch | None:
        """The next batch of this process's share; None after the last one, or if the run is being stopped."""
        item = self._wait()
        if isinstance(item, Exception):
            time.sleep(POLL)  # a signal to the process group may kill the workers before it is handled here
            if self._signals:
                return None
            dead = self._dead_workers()
            raise (dead_worker(dead) if dead else item) from item
        if item is None:
            return None
        batch, skipped = item
        if skipped and not self._skip_unreadable:
            raise InputError(f"{skipped[0]} Repair it, or set --config.data.on_bad_image=skip.")
        self.skipped += skipped
        return batch

    def _wait(self) -> tuple[DeviceBatch, tuple[str, ...]] | Exception | None:
        start = time.perf_counter()
        try:
            while not self._signals:
                try:
                    return self._ready.get(timeout=POLL)
                except queue.Empty:
                    # Checked here, too, so that the run does not hang if the reader of a worker's pipe hangs.
                    dead = self._dead_workers()
                    if dead:
                        return RuntimeError(dead)
            return None
        finally:
            self.waited += time.perf_counter() - start

    def _fill(self) -> None:
        """Runs in the thread: moves batches to the devices and queues them; the last item is None or an exception."""
        try:
            for loaded in self._loaded:
                self._put((self._on_devices(loaded), loaded.skipped))
                if self._closed:
                    break
            else:
                self._put(None)
        except Exception as error:
            self._put(error)
        finally:
            self._loaded.close()

    def _on_devices(self, loaded: Loaded) -> DeviceBatch:
        arrays = jax.tree.map(lambda x: jax.make_array_from_process_local_data(self._sharding, x), loaded.batch)
        return DeviceBatch(loaded.step, arrays, loaded.indices, loaded.bucket, loaded.real)

    def _put(self, item: Any) -> None:
        while not self._closed:
            try:
                return self._ready.put(item, timeout=POLL)
            except queue.Full:
                pass

    def _dead_workers(self) -> str:
        """The exit codes of dead data workers, as a message; "" if all are alive."""
        for process in multiprocessing.active_children():
            if process.name.startswith("grain-process"):
                self._workers[process.pid or 0] = process
        codes = {pid: process.exitcode for pid, process in self._workers.items() if process.exitcode}
        return "; ".join(f"process {pid} ended with code {code}" for pid, code in codes.items())
