"""Builds batches of images with boxes, for `data.loader`."""

import dataclasses
from typing import NamedTuple

import numpy as np

from yolos_jax.data.augment import Pipeline, Views, normalized_boxes
from yolos_jax.data.examples import Example, Source, TrainBatch
from yolos_jax.data.loader import ALL, LoadStep, Share
from yolos_jax.data.plan import BucketedPlan, PlannedBatch
from yolos_jax.images.sequence import pack


class ViewedExample(NamedTuple):
    """An image and its boxes after augmentation."""

    pixels: np.ndarray  # uint8 [height, width, 3]
    example: Example


@dataclasses.dataclass(frozen=True)
class _View:
    source: Source
    pipeline: Pipeline

    def __call__(self, index: int, view: Views) -> ViewedExample:
        example = self.source.examples[index]
        # The decoded image is not assigned to a variable, so its memory is freed as soon as it is resized.
        pixels = self.pipeline.pixels(self.source.read(example), view)
        return ViewedExample(pixels, self.pipeline.boxes(example, view))


@dataclasses.dataclass(frozen=True)
class _Pack:
    patch: int
    max_side: int
    most_boxes: int

    def __call__(self, viewed: list[ViewedExample], planned: PlannedBatch, mine: slice) -> TrainBatch:
        slots = mine.stop - mine.start
        sequences = pack([v.pixels for v in viewed], planned.tokens, slots, self.patch, self.max_side)
        targets = pack_targets([v.example for v in viewed], slots, self.most_boxes)
        return TrainBatch(*sequences, **targets)


def detection_work(source: Source, plan: BucketedPlan, patch: int, max_side: int, share: Share = ALL) -> LoadStep:
    """Creates a `LoadStep` whose batches are `TrainBatch`es.

    Args:
      patch: patch size in pixels.
      max_side: maximum side in patches that the model supports.
      share: part of each batch that this process loads.
    """
    most_boxes = max(1, int(source.examples.counts.max(initial=0)))
    slot_bytes = max(plan.edges) * 3 * patch**2
    return LoadStep(plan, _View(source, plan.pipeline), _Pack(patch, max_side, most_boxes), slot_bytes, share)


def pack_targets(examples: list[Example], slots: int, most: int) -> dict[str, np.ndarray]:
    """Returns the target fields of a `TrainBatch`, for at most `slots` examples with at most `most` boxes each."""
    labels = np.full((slots, most), -1, np.int32)
    boxes = np.zeros((slots, most, 4), np.float32)
    count = np.zeros(slots, np.int32)
    for slot, example in enumerate(examples):
        n = len(example.labels)
        labels[slot, :n] = example.labels
        boxes[slot, :n] = normalized_boxes(example)
        count[slot] = n
    return {"labels": labels, "boxes": boxes, "count": count, "valid": np.arange(slots) < len(examples)}
