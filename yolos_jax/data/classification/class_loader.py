"""A step of the plan becomes a batch of sequences with a class each; `data.loader.load` runs it ahead of time."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from yolos_jax.data.classification.class_plan import ClassPlan, random_of_mixing, random_of_picture
from yolos_jax.data.classification.class_views import Viewer
from yolos_jax.data.classification.mixing import Mixed, Mixing
from yolos_jax.data.loader import ALL, SUBSTITUTES, Loaded, Share
from yolos_jax.errors import InputError
from yolos_jax.images.reading import UnreadableImage
from yolos_jax.images.sequence import to_patches


class ClassSource(Protocol):
    """A split of a data set of images with one class each, however it is stored; cheap to send to a process."""

    @property
    def names(self) -> Sequence[str]:
        """Of every class 0, 1, ..."""

    @property
    def origin(self) -> str:
        """Where it lies, for messages."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, a sentence each."""

    def __len__(self) -> int:
        """Number of images."""

    def name(self, index: int) -> str:
        """What an image is called in messages."""

    def read(self, index: int) -> tuple[Image.Image, int]:
        """(an RGB image, its class); `UnreadableImage` if it is damaged."""

    def fingerprint(self) -> str:
        """Changes with the images' number, classes and names, wherever they lie."""


class ClassBatch(NamedTuple):
    """A batch of sequences, all of N patches, with classes and what is random about them; numpy or jax arrays."""

    patches: np.ndarray  # uint8 [B, N, 3 p p]
    labels: np.ndarray  # int32 [B]
    valid: np.ndarray  # bool [B]: False for slots without an image
    keep: np.ndarray  # uint8 [B, depth, 2]: 0 for branches of blocks that stochastic depth leaves out
    share: np.ndarray  # this and `box`: see `mixing.Mixed`
    box: np.ndarray


class LoadClasses:
    """Step number -> `Loaded` with a `ClassBatch`: the work of a data worker.

    Args:
      patch: patch size in pixels.
      drop_rates: float `[depth]`, how often the branches of each block are left out; empty for none.
      mixing: how pairs are mixed; None for not at all.
      share: this process's part of every batch.
    """

    def __init__(
        self,
        source: ClassSource,
        plan: ClassPlan,
        viewer: Viewer,
        patch: int,
        drop_rates: np.ndarray | None = None,
        mixing: Mixing | None = None,
        share: Share = ALL,
    ):
        if plan.batch_size % share.count:
            raise InputError(f"a batch of {plan.batch_size} images cannot be shared by {share.count} processes.")
        self.source, self.plan, self.viewer, self.patch = source, plan, viewer, patch
        self.drop_rates = np.zeros(0, np.float32) if drop_rates is None else drop_rates
        self.mixing, self.share, self.slots = mixing, share, plan.batch_size // share.count
        self.tokens = (viewer.size // patch) ** 2

    @property
    def nbytes(self) -> int:
        """Most bytes of the pixels of a batch."""
        return self.slots * self.tokens * 3 * self.patch**2

    def __call__(self, step: int) -> Loaded:
        planned = self.plan.batch(int(step))
        mine = slice(self.share.index * self.slots, (self.share.index + 1) * self.slots)
        patches = np.zeros((self.slots, self.tokens, 3 * self.patch**2), np.uint8)
        keep = np.ones((self.slots, len(self.drop_rates), 2), np.uint8)
        labels, indices = np.zeros(self.slots, np.int32), np.full(self.slots, -1, np.int64)
        skipped: list[str] = []
        for slot, (index, copy) in enumerate(zip(planned.indices[mine].tolist(), planned.copies[mine].tolist())):
            random = random_of_picture(self.plan.seed, planned.epoch, index, copy)
            view = self.viewer.draw(random)
            found = self._read(index, skipped)
            if found is None:
                continue
            indices[slot], image, labels[slot] = found
            cut = to_patches(self.viewer.pixels(image, view), self.patch)
            patches[slot].reshape(cut.shape)[...] = cut
            keep[slot] = random.random(keep.shape[1:]) >= self.drop_rates[:, None]
        mixed = self._mixed(int(step), mine)
        batch = ClassBatch(patches, labels, indices >= 0, keep, *mixed)
        real = int((indices >= 0).sum()) * self.tokens
        return Loaded(int(step), batch, indices, tuple(skipped), self.tokens, real)

    def _mixed(self, step: int, mine: slice) -> Mixed:
        if not self.mixing:
            return Mixed(np.ones(self.slots, np.float32), np.zeros((self.slots, 4), np.int32))
        drawn = self.mixing.draw(random_of_mixing(self.plan.seed, step), self.plan.batch_size)
        return Mixed(drawn.share[mine], drawn.box[mine])

    def _read(self, index: int, skipped: list[str]) -> tuple[int, Image.Image, int] | None:
        """(place, image, class) of a planned image or the one that takes its place; None if there is none."""
        one: int | None = index
        for attempt in range(SUBSTITUTES):
            try:
                assert one is not None
                return one, *self.source.read(one)
            except UnreadableImage as error:
                skipped.append(str(error))
            one = self.plan.substitute(index, attempt)
            if one is None and not attempt:
                return None  # nothing may take its place
            if one is None:
                break
        raise InputError(f"{attempt + 1} images in a row cannot be read, the last one: {skipped[-1]}")
