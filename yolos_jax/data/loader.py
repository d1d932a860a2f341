"""Reads, augments and packs the batches of a plan, and prefetches them with Grain.

Worker processes are spawned, because JAX does not support forking, and end when their parent ends. This module does
not import jax or grain until batches are loaded. Grain imports jax, so `start_worker` restricts JAX to the CPU.
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

SUBSTITUTES = 100  # maximum number of substitutes to try for an unreadable image
THREADS = 4  # number of threads if there are no worker processes; Pillow releases the GIL while decoding and resizing


class Loaded(NamedTuple):
    """A batch of NumPy arrays for the devices."""

    step: int  # index of the batch in the plan
    batch: Any  # input of the loss: a `TrainBatch`, or the batch type of another task
    indices: np.ndarray  # int64 [B]: index in the source of the image in each slot, -1 for an empty slot
    skipped: tuple[str, ...]  # one message per unreadable image
    bucket: int  # padded length of all sequences in patches
    real: int  # number of patches that are not padding


class Share(NamedTuple):
    """The slots of each global batch that this process loads: part `index` of `count` equal parts."""

    index: int = 0  # type: ignore[assignment]  # hides tuple.index
    count: int = 1  # type: ignore[assignment]  # hides tuple.count


ALL = Share()


class LoadStep:
    """Maps a step number to its `Loaded` batch, for any task. Called in data workers, so it must be picklable.

    Unreadable images without a substitute leave empty slots at the end of the share.

    Args:
      plan: selects the images of each step, and substitutes for unreadable images.
      view: (index in the source, view from the plan) -> input of `pack` for one image, with `pixels`
        `[height, width, 3]`; raises `UnreadableImage`.
      pack: (results of `view`, at most one per slot of the share; the planned batch; slice of the share in the batch)
        -> the batch, whose `patches` are `[slots, N, 3 p p]`.
      slot_bytes: maximum size of the patches of one image in bytes.
      share: part of each batch that this process loads.
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
            raise InputError(f"a batch of {plan.batch_size} images cannot be split among {share.count} processes.")
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
        """Returns the index and view of an image or its substitute, or None if the plan leaves the slot empty."""
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
        raise InputError(f"{attempts} images in a row cannot be read. The last error: {skipped[-1]}")


def load_batches(work: LoadStep, start: int, stop: int, workers: int = 0, ahead: int = 2) -> Generator[Loaded]:
    """Loads the batches of steps `start` to `stop - 1` with `work`, in order and with prefetching.

    Args:
      workers: number of worker processes; 0 uses threads instead. Does not affect the results.
      ahead: number of batches that each worker prefetches.

    Returns:
      An iterator, which must be closed (`contextlib.closing`) to end the workers.
    """
    import grain

    if not flags.FLAGS.is_parsed():  # grain reads flags, which only absl.app.run parses
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
