"""Grain runs a plan ahead of the devices: a step of the plan is read, viewed and packed into a batch.

Worker processes are spawned (jax does not survive a fork) and end with their parent. Importing this module imports
neither jax nor grain; grain itself imports jax, so `start_worker` keeps workers on the CPU without a backend.
"""

import contextlib
from collections.abc import Generator
from typing import Any, NamedTuple, Protocol

import numpy as np
from absl import flags

from yolos_jax.data.augment import normalized_boxes
from yolos_jax.data.examples import Example, Source, TrainBatch
from yolos_jax.data.plan import Plan, PlannedBatch
from yolos_jax.data.workers import from_processes, remove_leftovers
from yolos_jax.errors import InputError
from yolos_jax.images.reading import UnreadableImage
from yolos_jax.images.sequence import pack

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
    """Which slots of every global batch are this process's: part `index` of `count` equal ones."""

    index: int = 0  # type: ignore[assignment]  # hides tuple.index
    count: int = 1  # type: ignore[assignment]  # hides tuple.count


ALL = Share()


class Viewed(NamedTuple):
    """An image read and viewed: its place in the source, its targets, its pixels `[height, width, 3]`."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    example: Example
    pixels: np.ndarray


class LoadStep:
    """Step number -> `Loaded`: the work of a data worker.

    Args:
      patch: patch size in pixels.
      max_side: longest side in patches that the model takes.
      share: this process's part of every batch.
    """

    def __init__(self, source: Source, plan: Plan, patch: int, max_side: int, share: Share = ALL):
        if plan.batch_size % share.count:
            raise InputError(f"a batch of {plan.batch_size} images cannot be shared by {share.count} processes.")
        self.source, self.plan, self.patch, self.max_side, self.share = source, plan, patch, max_side, share
        self.slots = plan.batch_size // share.count
        self.most = max(1, int(source.examples.counts.max(initial=0)))

    @property
    def nbytes(self) -> int:
        """Most bytes of the pixels of a batch."""
        return self.slots * max(self.plan.edges) * 3 * self.patch**2

    def __call__(self, step: int) -> Loaded:
        planned = self.plan.batch(int(step))
        skipped: list[str] = []
        mine = slice(self.share.index * self.slots, (self.share.index + 1) * self.slots)
        each = (
            planned._replace(indices=planned.indices[[place]], views=planned.views.of([place]))
            for place in range(len(planned.indices))[mine]
        )
        viewed = [found for found in (self._read(one, skipped) for one in each) if found is not None]
        sequences = pack([v.pixels for v in viewed], planned.tokens, self.slots, self.patch, self.max_side)
        targets = pack_targets([v.example for v in viewed], self.slots, self.most)
        indices = np.full(self.slots, -1, np.int64)
        indices[: len(viewed)] = [v.index for v in viewed]
        real = int(sequences.grid[: len(viewed)].prod(1).sum())
        return Loaded(int(step), TrainBatch(*sequences, **targets), indices, tuple(skipped), planned.tokens, real)

    def _read(self, planned: PlannedBatch, skipped: list[str]) -> Viewed | None:
        """A planned image or the one that takes its place; None if there is none."""
        one: PlannedBatch | None = planned
        pipeline, attempts = self.plan.pipeline, 0
        while one is not None and attempts < SUBSTITUTES:
            index, view = int(one.indices[0]), one.views.of(0)
            example = self.source.examples[index]
            try:
                return Viewed(index, pipeline.boxes(example, view), pipeline.pixels(self.source.read(example), view))
            except UnreadableImage as error:
                skipped.append(str(error))
            one = self.plan.substitute(planned.step, int(planned.indices[0]), attempts)
            attempts += 1
        if one is None and attempts == 1:
            return None  # nothing may take its place
        raise InputError(f"{attempts} images in a row cannot be read, the last one: {skipped[-1]}")


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


class Work(Protocol):
    """Step number -> `Loaded`, what a data worker does; it must pickle."""

    @property
    def nbytes(self) -> int:
        """Most bytes of the pixels of a batch."""

    def __call__(self, step: int) -> Loaded: ...


def load(work: Work, start: int, stop: int, workers: int = 0, ahead: int = 2) -> Generator[Loaded]:
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
    remove_leftovers()
    steps = grain.MapDataset.range(start, stop).map(work)
    if workers:
        return from_processes(steps, work.nbytes, workers, ahead)
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=max(ahead, THREADS))
    return _from_threads(iter(steps.to_iter_dataset(options)))


def _from_threads(batches: Any) -> Generator[Loaded]:
    with contextlib.closing(batches):
        yield from batches
