"""Prefetches the batches of a plan with Grain: each step is read, augmented and packed into a batch.

Worker processes are spawned (jax does not survive a fork) and end with their parent. This module imports neither jax
nor grain. Grain itself imports jax, so `start_worker` keeps workers from starting a backend.
"""

import contextlib
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from yolos_jax.data.plan import Plan, PlannedBatch, PlannedImage
from yolos_jax.data.workers import from_processes, remove_leftovers
from yolos_jax.errors import InputError
from yolos_jax.images.reading import UnreadableImage

SUBSTITUTES = 100  # images tried in place of an unreadable one
THREADS = 4  # if there are no worker processes; Pillow releases the GIL while decoding and resizing


class Loaded(NamedTuple):
    """A batch of numpy arrays, ready for the devices."""

    step: int  # its index in the plan
    batch: Any  # input of the loss: a `TrainBatch`, or another task's
    indices: np.ndarray  # int64 [B]: index in the source of each slot's image, -1 for an empty slot
    skipped: tuple[str, ...]  # one message per unreadable image
    bucket: int  # padded length of every sequence, in patches
    real: int  # patches that are not padding


class Share(NamedTuple):
    """This process's slots of every global batch: part `index` of `count` equal parts."""

    index: int = 0  # type: ignore[assignment]  # hides tuple.index
    count: int = 1  # type: ignore[assignment]  # hides tuple.count


ALL = Share()


class LoadStep:
    """Maps a step number to `Loaded`: the work of a data worker, for any task. It must pickle.

    Unreadable images without a substitute leave empty slots at the end of the share.

    Args:
      plan: gives the images of each step, and substitutes for unreadable ones.
      view: (index in the source, the plan's view) -> one image's input to `pack`, with its `pixels`
        `[height, width, 3]`; raises `UnreadableImage`.
      pack: (results of `view`, at most one per slot of the share; the planned batch; the share's slots in it)
        -> the batch, whose `patches` are `[slots, N, 3 p p]`.
      slot_bytes: maximum bytes of one image's patches.
      share: this process's part of every batch.
    """

    def __init__(
        self,
        plan: Plan,
        view: Callable[[int, Any], Any],
        pack: Callable[[list[Any], PlannedBatch, slice], Any],
        slot_bytes: int,
        share: Share = ALL,
    ):
        if plan.batch_size % share.count:
            raise InputError(f"a batch of {plan.batch_size} images cannot be shared by {share.count} processes.")
        self.plan = plan
        self.view = view
        self.pack = pack
        self.slots = plan.batch_size // share.count
        self.nbytes = self.slots * slot_bytes
        self.mine = slice(share.index * self.slots, (share.index + 1) * self.slots)

    def __call__(self, step: int) -> Loaded:
        planned = self.plan.batch(int(step))
        indices = np.full(self.slots, -1, np.int64)
        viewed: list[Any] = []
        skipped: list[str] = []
        for slot in range(len(planned.indices))[self.mine]:
            found = self._viewed(planned, planned.image(slot), skipped)
            if found is not None:
                indices[len(viewed)], item = found
                viewed.append(item)
        batch = self.pack(viewed, planned, self.mine)
        _, bucket, values = batch.patches.shape
        pixels = sum(item.pixels.size for item in viewed)
        return Loaded(int(step), batch, indices, tuple(skipped), bucket, pixels // values)

    def _viewed(self, planned: PlannedBatch, wanted: PlannedImage, skipped: list[str]) -> tuple[int, Any] | None:
        """The index and view of an image or its substitute; None if it is unreadable and has no substitute."""
        image: PlannedImage | None = wanted
        attempts = 0
        while image is not None and attempts < SUBSTITUTES:
            try:
                return image.place, self.view(image.place, image.view)
            except UnreadableImage as error:
                skipped.append(str(error))
            image = self.plan.substitute(planned, wanted, attempts)
            attempts += 1
        if image is None and attempts == 1:
            return None
        raise InputError(f"{attempts} images in a row cannot be read, the last one: {skipped[-1]}")


def load_batches(work: LoadStep, start: int, stop: int, workers: int = 0, ahead: int = 2) -> Generator[Loaded]:
    """Runs the steps `start..stop - 1` of `work` in order, with prefetching.

    Args:
      workers: processes; 0 uses threads instead. The results do not depend on it.
      ahead: batches that each worker prefetches.

    Returns:
      An iterator; close it (`contextlib.closing`) to end the workers.
    """
    import grain

    if not flags.FLAGS.is_parsed():  # outside absl.app.run; grain reads its own flags
        flags.FLAGS.mark_as_parsed()
    remove_leftovers()
    steps = grain.MapDataset.range(start, stop).map(work)
    if workers:
        return from_processes(steps, work.nbytes, workers, ahead)
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=max(ahead, THREADS))
    return _from_threads(iter(steps.to_iter_dataset(options)))


def _from_threads(batches: Any) -> Generator[Loaded]:
    with contextlib.closing(batches):
        yield from batches
