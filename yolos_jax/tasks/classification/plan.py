"""Batch plans for classification. Batches depend only on the seed and the step; all sequences have the same length."""

from typing import NamedTuple

import numpy as np

from yolos_jax.data.plan import PlannedBatch, PlannedImage, PlanOfEpochs, evaluation_batch_size
from yolos_jax.images.sequence import ceil_div

CLASS_ORDER = 1  # version of the image order and the views; a run resumed with a different one is not bit-identical
# Purposes of random numbers; each has its own generator.
_VIEW = 0
_ORDER = 1
_MIXING = 2


class ViewSeeds(NamedTuple):
    """The seeds of the views in a batch."""

    seed: int
    epoch: int
    images: np.ndarray  # int64 [n], indices in the source
    copies: np.ndarray  # int64 [n], index among the views of the same image, for repeated augmentation

    def of(self, slot: int) -> list[int]:
        """The seed of the random numbers of one view."""
        return [self.seed, self.epoch, _VIEW, int(self.images[slot]), int(self.copies[slot])]


class ShuffledPlan(PlanOfEpochs):
    """Batches of images that are reshuffled in every epoch; an incomplete last batch is dropped.

    With `repeats` above 1, a batch has that many views of each of its images (repeated augmentation, arXiv
    1902.05509). An epoch has the same number of steps but fewer images. Views of the same image are never adjacent,
    so they are not mixed with each other.

    Args:
      images: number of images; raises `InputError` if they do not fill a batch.
      batch_size: images per global batch.
      epochs, least_steps: see `PlanOfEpochs`.
    """

    def __init__(self, images: int, batch_size: int, epochs: int, seed: int, repeats: int = 1, least_steps: int = 0):
        super().__init__(images, batch_size, epochs, seed, least_steps)
        self.repeats = repeats

    def _epoch(self, epoch: int) -> np.ndarray:
        """The indices of all images, shuffled for an epoch."""
        return np.random.default_rng([self.seed, epoch, _ORDER]).permutation(self.images)

    def batch(self, step: int) -> PlannedBatch:
        epoch, place = divmod(step, self.steps_per_epoch)
        different = ceil_div(self.batch_size, self.repeats)
        copies, within = np.divmod(np.arange(self.batch_size), different)
        images = self.epoch(epoch)[place * different + within]
        return PlannedBatch(step, images, ViewSeeds(self.seed, epoch, images, copies))

    def substitute(self, planned: PlannedBatch, wanted: PlannedImage, attempt: int) -> PlannedImage | None:
        if attempt >= self.images - 1:
            return None
        return PlannedImage((wanted.place + 1 + attempt) % self.images, wanted.view)


class InOrderPlan:
    """Every image exactly once, in the order of the source; only the last batch can be smaller.

    For `batch_size` and `multiple`, see `data.plan.EvaluationPlan`.
    """

    seed = 0

    def __init__(self, images: int, batch_size: int, multiple: int = 1):
        self.images = images
        self.batch_size = evaluation_batch_size(images, batch_size, multiple)

    def __len__(self) -> int:
        return ceil_div(self.images, self.batch_size)

    def batch(self, step: int) -> PlannedBatch:
        images = np.arange(step * self.batch_size, min((step + 1) * self.batch_size, self.images))
        return PlannedBatch(step, images, ViewSeeds(self.seed, 0, images, np.zeros_like(images)))

    def substitute(self, planned: PlannedBatch, wanted: PlannedImage, attempt: int) -> None:
        """Returns None, because an evaluation must not replace images."""


def random_of_mixing(seed: int, step: int) -> np.random.Generator:
    """The random number generator for mixing the pairs of a step."""
    return np.random.default_rng([seed, step, _MIXING])
