"""Which images share which batch: a function of seed and step, as in detection, but all of one length."""

from typing import NamedTuple

import numpy as np

from yolos_jax.data.plan import PlannedBatch, PlannedImage, PlanOfEpochs, evaluation_batch_size
from yolos_jax.images.sequence import ceil_div

CLASS_ORDER = 1  # version of the order of data and views; a checkpoint of another cannot be resumed bit for bit
# What random numbers are for: nothing shares another's.
_VIEW = 0
_ORDER = 1
_MIXING = 2


class ViewSeeds(NamedTuple):
    """What decides the views of a batch."""

    seed: int
    epoch: int
    images: np.ndarray  # int64 [n], by their place in the source
    copies: np.ndarray  # int64 [n]: which view of the image this is, for repeated augmentation

    def of(self, slot: int) -> list[int]:
        """The seed of a view's random numbers."""
        return [self.seed, self.epoch, _VIEW, int(self.images[slot]), int(self.copies[slot])]


class ShuffledPlan(PlanOfEpochs):
    """Shuffled batches, epoch after epoch; an epoch's last incomplete batch is dropped.

    With `repeats` above 1, a batch holds that many views of each of its images (repeated augmentation, arXiv
    1902.05509): an epoch has as many steps, of fewer images. Views of one image are never neighbours, so they are not
    mixed with each other.

    Args:
      images: how many images there are; `InputError` if they are fewer than a batch holds.
      batch_size: images of a global batch.
      epochs, least_steps: see `PlanOfEpochs`.
    """

    def __init__(self, images: int, batch_size: int, epochs: int, seed: int, repeats: int = 1, least_steps: int = 0):
        super().__init__(images, batch_size, epochs, seed, least_steps)
        self.repeats = repeats

    def _epoch(self, epoch: int) -> np.ndarray:
        """All images in an epoch's order."""
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
    """Every image exactly once, in the source's order; only the last batch can have fewer.

    `batch_size` and `multiple` are those of `data.plan.EvaluationPlan`.
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
        """No other image may take the place of one that is to be scored."""


def random_of_mixing(seed: int, step: int) -> np.random.Generator:
    """The random numbers of a step's pairs."""
    return np.random.default_rng([seed, step, _MIXING])
