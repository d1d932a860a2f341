"""Grain runs a plan: decode, flip, resize, crop, cut into patches, ahead of the devices.

Worker processes are spawned (fork and jax do not go together) and end with
their parent. Importing this module imports neither jax nor grain; grain itself
imports jax, so workers are told to stay on the CPU and never start a backend.
"""

import gc
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from yolos_jax.data.augment import normalized_boxes, view_example, view_pixels
from yolos_jax.data.examples import Example, Source, TrainBatch
from yolos_jax.data.plan import Plan, PlannedBatch
from yolos_jax.errors import InputError
from yolos_jax.images.reading import UnreadableImage
from yolos_jax.images.sequence import pack

SUBSTITUTES = 100  # images tried in place of an unreadable one
LARGE = 4096  # bytes from which an array goes through shared memory
THREADS = 4  # without worker processes; Pillow decodes and resizes without the interpreter lock


class Loaded(NamedTuple):
    """A batch ready for the devices.

    Attributes:
      step: its place in the plan.
      batch: numpy arrays.
      indices: int64 `[B]`, each slot's image by its place in the source, -1 for an empty slot.
      skipped: a sentence for each image that could not be read.
    """

    step: int
    batch: TrainBatch
    indices: np.ndarray
    skipped: tuple[str, ...]


class Share(NamedTuple):
    """Which slots of every global batch are this process's: part `index` of `count` equal ones."""

    index: int = 0  # type: ignore[assignment]  # hides tuple.index
    count: int = 1  # type: ignore[assignment]  # hides tuple.count


ALL = Share()


class LoadStep:
    """Step number -> `Loaded`: the work of a data worker.

    Args:
      source: examples and pixels.
      plan: which of them, and how.
      patch: patch size in pixels.
      max_side: longest side in patches that the model takes.
      share: this process's part.
    """

    def __init__(self, source: Source, plan: Plan, patch: int, max_side: int, share: Share = ALL):
        if plan.batch_size % share.count:
            raise InputError(f"a batch of {plan.batch_size} images cannot be shared by {share.count} processes.")
        self.source, self.plan, self.patch, self.max_side, self.share = source, plan, patch, max_side, share
        self.most = max(1, int(source.examples.counts.max(initial=0)))

    def __call__(self, step: int) -> Loaded:
        planned = self.plan.batch(int(step))
        skipped: list[str] = []
        slots = self.plan.batch_size // self.share.count
        mine = slice(self.share.index * slots, (self.share.index + 1) * slots)
        found = []
        for place in range(len(planned.indices))[mine]:
            one = planned._replace(indices=planned.indices[place : place + 1], views=planned.views.of([place]))
            found.append(self._read(one, skipped))
        kept = [item for item in found if item is not None]
        sequences = pack([pixels for _, _, pixels in kept], planned.tokens, slots, self.patch, self.max_side)
        indices = np.full(slots, -1, np.int64)
        indices[: len(kept)] = [index for index, _, _ in kept]
        targets = pack_targets([example for _, example, _ in kept], slots, self.most)
        return Loaded(int(step), TrainBatch(*sequences, **targets), indices, tuple(skipped))

    def _read(self, planned: PlannedBatch, skipped: list[str]) -> tuple[int, Example, np.ndarray] | None:
        """(index, example, pixels) of a planned image or of the one that takes its place; None if there is none."""
        one, original = planned, int(planned.indices[0])
        for attempt in range(SUBSTITUTES):
            index, view = int(one.indices[0]), one.views.of(0)
            example = self.source.examples[index]
            try:
                return index, view_example(example, view), view_pixels(self.source.read(example), view)
            except UnreadableImage as error:
                skipped.append(str(error))
            other = self.plan.substitute(planned.step, original, attempt)
            if other is None:
                break
            one = other
        if other is None and not attempt:
            return None  # nothing may take its place
        raise InputError(f"{attempt + 1} images in a row cannot be read, the last one: {skipped[-1]}")


def pack_targets(examples: list[Example], slots: int, most: int) -> dict[str, np.ndarray]:
    """The target fields of a `TrainBatch`, for at most `slots` examples of at most `most` boxes each."""
    out = {
        "labels": np.full((slots, most), -1, np.int32),
        "boxes": np.zeros((slots, most, 4), np.float32),
        "count": np.zeros(slots, np.int32),
        "valid": np.arange(slots) < len(examples),
    }
    for i, example in enumerate(examples):
        n = len(example.labels)
        out["labels"][i, :n], out["boxes"][i, :n], out["count"][i] = example.labels, normalized_boxes(example), n
    return out


def load(work: LoadStep, start: int, stop: int, workers: int = 0, ahead: int = 2) -> Generator[Loaded]:
    """Runs the steps `start..stop - 1` of a plan in order, ahead of time.

    Args:
      workers: processes; 0 for threads of this one. Changes no result.
      ahead: batches that each worker prepares before they are asked for.

    Returns:
      An iterator; close it (`contextlib.closing`) to end the workers.
    """
    import grain

    if not flags.FLAGS.is_parsed():  # outside absl.app.run; grain reads flags of its own
        flags.FLAGS.mark_as_parsed()
    steps = grain.MapDataset.range(start, stop).map(work)
    if not workers:
        options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=max(ahead, THREADS))
        return _threads(iter(steps.to_iter_dataset(options)))
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    several = grain.multiprocessing.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead)
    check_shared_memory(work, workers, ahead)
    # Large arrays go through shared memory: a worker that dies in the middle of a long message through a pipe
    # would leave its reader waiting for the rest.
    large = grain.experimental.DatasetOptions(min_shm_size=LARGE)
    batches = grain.experimental.WithOptionsIterDataset(steps.to_iter_dataset(options), large)
    return _processes(iter(batches.mp_prefetch(several, worker_init_fn=_start_worker)))


def _threads(iterator: Any) -> Generator[Loaded]:
    try:
        yield from iterator
    finally:
        iterator.close()


def _processes(iterator: Any) -> Generator[Loaded]:
    try:
        # Copied, so that shared memory is free again at once; map holds on to nothing.
        yield from map(_copied, iterator)
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        raise dead_worker(str(error).split(".")[0]) from error
    finally:
        iterator.close()
        del iterator
        gc.collect()  # grain's iterators are cycles that keep a last batch
        time.sleep(0.1)  # a thread of grain's gives shared memory back


def dead_worker(what: str) -> InputError:
    """What to say when a data worker is no more; `what` has its exit code."""
    return InputError(
        f"a data worker died ({what}; -9 is often the system running out of memory). Give it more memory, or lower "
        "data.workers or data.ahead, and run the same command to go on."
    )


def _copied(loaded: Loaded) -> Loaded:
    return loaded._replace(batch=TrainBatch(*map(np.array, loaded.batch)), indices=np.array(loaded.indices))


def check_shared_memory(work: LoadStep, workers: int, ahead: int, folder: str = "/dev/shm") -> None:
    """`InputError` if batches on their way would not fit; the system would kill the workers, saying little."""
    if not os.path.isdir(folder):
        return
    slots = work.plan.batch_size // work.share.count
    batch = slots * max(work.plan.edges) * 3 * work.patch**2
    wanted, free = 2 * workers * (ahead + 1) * batch, shutil.disk_usage(folder).free
    if wanted > free:
        raise InputError(
            f"{workers} data workers need up to {wanted / 2**20:.0f} MiB of shared memory and {folder} has "
            f"{free / 2**20:.0f} MiB left; enlarge it (docker run --shm-size), or lower data.workers or data.ahead "
            "(data.workers=0 needs none)."
        )


def _start_worker(index: int, count: int) -> None:
    """In a new worker: no accelerator, no say in Ctrl-C, and an end when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A signal to the whole group is the parent's to answer: it finishes its step and ends its workers.
    signal.signal(signal.SIGTERM, lambda *_: _exit_later())
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _exit_later(seconds: float = 30.0) -> None:
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()
