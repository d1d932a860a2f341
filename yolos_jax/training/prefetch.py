"""Batches on the devices, ahead of the step that wants them."""

import multiprocessing
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

from yolos_jax.data.examples import TrainBatch
from yolos_jax.data.loader import Loaded
from yolos_jax.data.workers import dead_worker

AHEAD = 2  # batches on the devices that no step has asked for yet
POLL = 0.25  # seconds between looks at the workers and at `cancelled`


class OnDevices(NamedTuple):
    """A batch whose arrays are on the devices, split along the first axis.

    `step`, `indices` and `skipped` are as in `Loaded`, so of this process's share of the batch; `patches` counts
    those of the share that are not padding, `slots` all of them.
    """

    step: int
    batch: TrainBatch
    indices: np.ndarray
    skipped: tuple[str, ...]
    patches: int
    slots: int


class Feed:
    """Iterates over a loader's batches, moved to the devices by a thread; a context manager.

    Args:
      batches: from `data.loader.load`.
      sharding: how the first axis is split.
      cancelled: asked while waiting; True ends the iteration.

    Attributes:
      waited: seconds that the consumer has waited for data.

    Raises (from the iteration):
      InputError: a data worker died.
    """

    def __init__(self, batches: Generator[Loaded], sharding: NamedSharding, cancelled: Callable[[], object]):
        self._batches, self._sharding, self._cancelled = batches, sharding, cancelled
        self._ready: queue.Queue = queue.Queue(AHEAD)
        self._closed, self.waited = False, 0.0
        self._workers: dict[int, multiprocessing.process.BaseProcess] = {}
        self._thread = threading.Thread(target=self._fill, daemon=True, name="feed")

    def __enter__(self) -> "Feed":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._thread.join(timeout=60.0)  # grain gives a worker 25 seconds

    def _fill(self) -> None:
        """The thread: numpy to devices, then into the queue; the last item is None or an exception."""
        try:
            for loaded in self._batches:
                batch = jax.tree.map(lambda x: jax.make_array_from_process_local_data(self._sharding, x), loaded.batch)
                slots = loaded.batch.patches.shape[0] * loaded.batch.patches.shape[1]
                self._put(OnDevices(loaded.step, batch, loaded.indices, loaded.skipped, loaded.real, slots))
                if self._closed:
                    break
            else:
                self._put(None)
        except Exception as error:
            self._put(error)
        finally:
            self._batches.close()

    def _put(self, item: OnDevices | Exception | None) -> None:
        while not self._closed:
            try:
                return self._ready.put(item, timeout=POLL)
            except queue.Full:
                pass

    def __iter__(self) -> Iterator[OnDevices]:
        while True:
            item = self._next()
            if item is None:
                return
            if isinstance(item, Exception):
                raise self._meaning_of(item) from item
            yield item

    def _next(self) -> OnDevices | Exception | None:
        start = time.perf_counter()
        try:
            while not self._cancelled():
                try:
                    return self._ready.get(timeout=POLL)
                except queue.Empty:
                    dead = self._dead_worker()
                    if dead:
                        return RuntimeError(dead)
            return None
        finally:
            self.waited += time.perf_counter() - start

    def _dead_worker(self) -> str:
        """What became of a data worker that is no more, or nothing.

        Asked here too, so that whatever the reader of its pipe waits for, the run does not.
        """
        for process in multiprocessing.active_children():
            if process.name.startswith("grain-process"):
                self._workers[process.pid or 0] = process
        codes = {pid: process.exitcode for pid, process in self._workers.items() if process.exitcode}
        return "; ".join(f"process {pid} ended with code {code}" for pid, code in codes.items())

    def _meaning_of(self, error: Exception) -> Exception:
        """What a failure of the loader means to the user."""
        time.sleep(POLL)  # a signal to the whole group reaches the workers first
        if self._cancelled():
            return Cancelled()
        dead = self._dead_worker()
        return dead_worker(dead) if dead else error


class Cancelled(Exception):
    """The loader ended because the run is being stopped."""
