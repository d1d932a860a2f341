"""Grain runs a plan ahead of the devices: a step of the plan is read, viewed and packed into a batch.

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
THREADS = 4  # without worker processes; Pillow decodes and resizes without the interpreter lock


class Loaded(NamedTuple):
    """A batch of numpy arrays, ready for the devices."""

    step: int  # its place in the plan
    batch: Any  # what the loss takes: a `TrainBatch`, or another task's
    indices: np.ndarray  # int64 [B]: each slot's image by its place in the source, -1 for an empty slot
    skipped: tuple[str, ...]  # a sentence for each image that could not be read
    bucket: int  # patches that every sequence is padded to
    real: int  # patches that are not padding


class Share(NamedTuple):
    """The slots of every global batch that belong to this process: part `index` of `count` equal ones."""

    index: int = 0  # type: ignore[assignment]  # hides tuple.index
    count: int = 1  # type: ignore[assignment]  # hides tuple.count


ALL = Share()


class LoadStep:
    """Step number -> `Loaded`: the work of a data worker, for any task. It must pickle.

    Slots of images that cannot be read and that nothing may replace are left empty, at the end of the share.

    Args:
      plan: which images a step has, and what takes the place of one that cannot be read.
      view: (place in the source, the plan's view) -> what `pack` takes of one image, its `pixels` `[height, width, 3]`
        among it; raises `UnreadableImage`.
      pack: (what `view` gave, at most as many as the share has slots; the planned batch; the slots of the share in it)
        -> the batch, whose `patches` are `[slots, N, 3 p p]`.
      slot_bytes: most bytes of the patches of one image.
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
        """The place and the view of an image, or of the one that takes its place; None if nothing may."""
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
    """Runs the steps `start..stop - 1` of `work` in order, ahead of time.

    Args:
      workers: processes; 0 for threads of this one. Changes no result.
      ahead: batches that each worker prepares before they are asked for.

    Returns:
      An iterator; close it (`contextlib.closing`) to end the workers.
    """
    import grain

    if not flags.FLAGS.is_parsed():  # outside absl.app.run; grain reads flags of its own
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
