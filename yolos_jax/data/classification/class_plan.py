"""Which images share which batch: a function of seed and step, as in detection, but all of one length."""

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from yolos_jax.errors import InputError
from yolos_jax.images.sequence import ceil_div

CLASS_ORDER = 1  # version of the order of data and views; a checkpoint of another cannot be resumed bit for bit
_PICTURE, _ORDER, _MIXING = 0, 1, 2  # what random numbers are for: nothing shares another's


class Slots(NamedTuple):
    """The images of one step."""

    step: int
    epoch: int
    indices: np.ndarray  # int64 [n], by their place in the source; n is at most the batch size
    copies: np.ndarray  # int64 [n]: which view of the image this is, for repeated augmentation


class ClassPlan(Protocol):
    """Random access to the steps; cheap to send to another process."""

    batch_size: int
    seed: int

    def __len__(self) -> int: ...

    def batch(self, step: int) -> Slots:
        """The images of a step."""

    def substitute(self, index: int, attempt: int) -> int | None:
        """An image in place of an unreadable one, or None to leave its slot empty."""


class ShuffledPlan:
    """Shuffled batches, epoch after epoch; an epoch's last incomplete batch is dropped.

    With `repeats` above 1, a batch holds that many views of each of its images (repeated augmentation, arXiv
    1902.05509), and an epoch has as many steps but only so many of the images. Views of one image are never
    neighbours, so they are not mixed with each other.

    Args:
      images: how many images there are; `InputError` if they are fewer than a batch holds.
      batch_size: images of a global batch.
    """

    def __init__(self, images: int, batch_size: int, epochs: int, seed: int, repeats: int = 1):
        self.images, self.batch_size, self.epochs, self.seed, self.repeats = images, batch_size, epochs, seed, repeats
        self.steps_per_epoch, self.dropped = divmod(images, batch_size)
        if not self.steps_per_epoch:
            few = f"{images} training images do not fill one batch of {batch_size}"
            raise InputError(f"{few}; lower train.batch_size.")

    def __len__(self) -> int:
        return self.epochs * self.steps_per_epoch

    def __getstate__(self) -> dict:
        return {key: value for key, value in vars(self).items() if key != "order"}  # without the cache

    @functools.cached_property
    def order(self) -> Callable[[int], np.ndarray]:
        """`order(epoch)` -> all images in an epoch's order; the last two are kept."""

        def order(epoch: int) -> np.ndarray:
            return np.random.default_rng([self.seed, epoch, _ORDER]).permutation(self.images)

        return functools.lru_cache(2)(order)

    def batch(self, step: int) -> Slots:
        epoch, place = divmod(step, self.steps_per_epoch)
        different = ceil_div(self.batch_size, self.repeats)
        copies, within = np.divmod(np.arange(self.batch_size), different)
        return Slots(step, epoch, self.order(epoch)[place * different + within], copies)

    def substitute(self, index: int, attempt: int) -> int | None:
        return (index + 1 + attempt) % self.images if attempt < self.images - 1 else None


class InOrderPlan:
    """Every image exactly once, in the source's order; only the last batch can have fewer.

    `batch_size` and `multiple` are those of `data.plan.EvaluationPlan`.
    """

    seed = 0

    def __init__(self, images: int, batch_size: int, multiple: int = 1):
        self.images, self.batch_size = images, min(batch_size, ceil_div(images, multiple) * multiple)

    def __len__(self) -> int:
        return ceil_div(self.images, self.batch_size)

    def batch(self, step: int) -> Slots:
        indices = np.arange(step * self.batch_size, min((step + 1) * self.batch_size, self.images))
        return Slots(step, 0, indices, np.zeros_like(indices))

    def substitute(self, index: int, attempt: int) -> None:
        """No other image may take the place of one that is to be scored."""


def random_of_picture(seed: int, epoch: int, index: int, copy: int) -> np.random.Generator:
    """The random numbers of one view of an image."""
    return np.random.default_rng([seed, epoch, _PICTURE, index, copy])


def random_of_mixing(seed: int, step: int) -> np.random.Generator:
    """The random numbers of a step's pairs."""
    return np.random.default_rng([seed, step, _MIXING])
