"""Draws the parameters of mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899).

Images 2k and 2k + 1 of a batch form a pair. The order within a batch is random, so the pairs are too. Both images of a
pair are on the same device, so mixing needs no communication. `soft_labels` mixes the pixels in the compiled step.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from yolos_jax.data.settings import MixingSettings


class Mixed(NamedTuple):
    """How `n` images are mixed with their partners."""

    share: np.ndarray  # float32 [n]: weight of the image's own label; the weight of the partner's label is 1 - share
    box: np.ndarray  # int32 [n, 4]: (top, left, bottom, right) of the box filled from the partner; zeros for mixup


@dataclasses.dataclass(frozen=True)
class Mixing(MixingSettings):
    """Chooses mixup, CutMix or neither for each pair, with weights from a beta distribution."""

    size: int = 224  # side of an image in pixels

    def __bool__(self) -> bool:
        return self.mix > 0 and (self.mixup > 0 or self.cutmix > 0)

    def draw(self, random: np.random.Generator, images: int) -> Mixed:
        """Draws the parameters for an even number of images."""
        share = np.ones(images, np.float32)
        box = np.zeros((images, 4), np.int32)
        both = self.mixup > 0 and self.cutmix > 0
        for pair in range(images // 2 if self else 0):
            u, which = random.random(2)
            if u >= self.mix:
                continue
            slots = slice(2 * pair, 2 * pair + 2)
            cuts = which < self.switch if both else self.cutmix > 0
            if cuts:
                box[slots] = cut = self._box(random.beta(self.cutmix, self.cutmix), random)
                share[slots] = 1.0 - (cut[2] - cut[0]) * (cut[3] - cut[1]) / self.size**2
            else:
                share[slots] = random.beta(self.mixup, self.mixup)
        return Mixed(share, box)

    def _box(self, share: float, random: np.random.Generator) -> tuple[int, int, int, int]:
        """A square around a random point with about 1 - share of the image's area, clipped to the image."""
        half = int(self.size * math.sqrt(1.0 - share)) // 2
        y, x = random.integers(self.size, size=2).tolist()
        return max(y - half, 0), max(x - half, 0), min(y + half, self.size), min(x + half, self.size)
