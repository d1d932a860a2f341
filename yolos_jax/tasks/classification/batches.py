"""Builds batches for classification; `data.loader` loads them."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from yolos_jax.data.loader import ALL, LoadStep, Share
from yolos_jax.data.plan import PlannedBatch
from yolos_jax.images.sequence import pack
from yolos_jax.tasks.classification.mixing import Mixed, Mixing
from yolos_jax.tasks.classification.plan import InOrderPlan, ShuffledPlan, random_of_mixing
from yolos_jax.tasks.classification.views import CentreView, RandomView


class ClassSource(Protocol):
    """A split of a classification data set in any storage format; cheap to pickle."""

    @property
    def names(self) -> Sequence[str]: ...  # names of classes 0, 1, ...
    @property
    def origin(self) -> str: ...  # its location, for messages
    @property
    def notes(self) -> tuple[str, ...]: ...  # messages for the user

    def __len__(self) -> int:
        """Number of images."""

    def name(self, index: int) -> str:
        """The name of an image, for messages."""

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Returns an RGB image and its class; raises `UnreadableImage` if the file is damaged."""

    def fingerprint(self) -> str:
        """A hash of the number of images, their classes and names; independent of where they are stored."""


class ClassBatch(NamedTuple):
    """A batch of sequences of N patches with their classes and random parameters, as numpy or jax arrays."""

    patches: np.ndarray  # uint8 [B, N, 3 p p]
    labels: np.ndarray  # int32 [B]
    valid: np.ndarray  # bool [B]: False for slots without an image
    keep: np.ndarray  # uint8 [B, depth, 2]: 0 for the branches that stochastic depth drops
    share: np.ndarray  # for this and `box`, see `mixing.Mixed`
    box: np.ndarray


class ViewedClass(NamedTuple):
    """An augmented image with its class, ready to be packed."""

    pixels: np.ndarray  # uint8 [size, size, 3]
    label: int
    keep: np.ndarray  # bool [depth, 2]


@dataclasses.dataclass(frozen=True)
class _View:
    source: ClassSource
    viewer: RandomView | CentreView
    drop_rates: np.ndarray

    def __call__(self, index: int, seed: list[int]) -> ViewedClass:
        random = np.random.default_rng(seed)
        view = self.viewer.draw(random)
        keep = random.random((len(self.drop_rates), 2)) >= self.drop_rates[:, None]
        image, label = self.source.read(index)
        return ViewedClass(self.viewer.pixels(image, view), label, keep)


@dataclasses.dataclass(frozen=True)
class _Pack:
    tokens: int
    patch: int
    depth: int
    mixing: Mixing | None
    seed: int

    def __call__(self, viewed: list[ViewedClass], planned: PlannedBatch, mine: slice) -> ClassBatch:
        slots = mine.stop - mine.start
        patches = pack([v.pixels for v in viewed], self.tokens, slots, self.patch).patches
        labels = np.zeros(slots, np.int32)
        keep = np.ones((slots, self.depth, 2), np.uint8)
        for slot, image in enumerate(viewed):
            labels[slot] = image.label
            keep[slot] = image.keep
        valid = np.arange(slots) < len(viewed)
        return ClassBatch(patches, labels, valid, keep, *self._mixed(planned, mine))

    def _mixed(self, planned: PlannedBatch, mine: slice) -> Mixed:
        slots = mine.stop - mine.start
        if not self.mixing:
            return Mixed(np.ones(slots, np.float32), np.zeros((slots, 4), np.int32))
        drawn = self.mixing.draw(random_of_mixing(self.seed, planned.step), len(planned.indices))
        return Mixed(drawn.share[mine], drawn.box[mine])


def classification_work(
    source: ClassSource,
    plan: ShuffledPlan | InOrderPlan,
    viewer: RandomView | CentreView,
    patch: int,
    drop_rates: np.ndarray | None = None,
    mixing: Mixing | None = None,
    share: Share = ALL,
) -> LoadStep:
    """Creates the function that maps a step number to a `Loaded` with a `ClassBatch`.

    Args:
      patch: patch size in pixels.
      drop_rates: float `[depth]`, the probability of dropping each branch of a block; None to drop no branches.
      mixing: how pairs of images are mixed; None for no mixing.
      share: this process's part of every batch.
    """
    rates = np.zeros(0, np.float32) if drop_rates is None else drop_rates
    tokens = (viewer.size // patch) ** 2
    to_batch = _Pack(tokens, patch, len(rates), mixing, plan.seed)
    return LoadStep(plan, _View(source, viewer, rates), to_batch, tokens * 3 * patch**2, share)
