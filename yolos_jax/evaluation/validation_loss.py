"""The set loss of a whole split, computed from the same outputs as the detections."""

import jax
import jax.numpy as jnp
import numpy as np

from yolos_jax.data.detection_batches import pack_targets
from yolos_jax.data.examples import Example, ExampleTable
from yolos_jax.objective.losses import Divisors, LossTerms, Targets, set_loss
from yolos_jax.objective.weights import LossWeights

IMAGES = 16  # batch size for computing the loss


class ValidationLoss:
    """The total of `objective.losses.set_loss` over a split, as if the split were one batch.

    Cross entropy is normalised within each image and then averaged over images; box terms are divided by the number of
    boxes in all images. The loss therefore depends neither on the order of images nor on the batch size. It is computed
    on the first device of this process, and compiled once.

    Args:
      examples: the images' annotations.
      matcher: see `objective.matching.match`.
      weights: weights of the terms.
    """

    def __init__(self, examples: ExampleTable, matcher: str, weights: LossWeights):
        self.examples = examples
        self.weights = weights
        self._most = max(1, int(examples.counts.max(initial=0)))
        ones = Divisors(jnp.ones(()), jnp.ones(()))  # so that the terms are sums over images and boxes

        def sums(logits: jax.Array, boxes: jax.Array, targets: Targets) -> LossTerms:
            with jax.numpy_rank_promotion("allow"):
                return set_loss(logits, boxes, targets, 1, matcher, None, ones, weights)[0]

        self._sums = jax.jit(sums)

    def begin(self) -> "Summed":
        """Starts a sum; `Summed.add` adds the outputs of an image to it."""
        return Summed(self)

    def of(self, examples: list[Example], logits: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Sums of the cross-entropy, L1 and GIoU terms over n <= `IMAGES` images; float64 `[3]`."""
        empty = IMAGES - len(examples)
        packed = pack_targets(examples, IMAGES, self._most)
        targets = Targets(**{name: jnp.asarray(x) for name, x in packed.items()})
        padded = [np.concatenate([x, np.zeros((empty, *x.shape[1:]), np.float32)]) for x in (logits, boxes)]
        terms = self._sums(*padded, targets)
        return np.array([terms.ce, terms.bbox, terms.giou], np.float64)


class Summed:
    """The loss of the images added so far."""

    def __init__(self, loss: ValidationLoss):
        self._loss = loss
        self._waiting: list[tuple[Example, np.ndarray, np.ndarray]] = []
        self._sums = np.zeros(3)
        self._images = 0
        self._boxes = 0

    def add(self, index: int, logits: np.ndarray, boxes: np.ndarray) -> None:
        """Adds the image at `index` in the examples: logits `[Q, K + 1]` and boxes `[Q, 4]` cxcywh in 0..1."""
        self._waiting.append((self._loss.examples[index], logits, boxes))
        if len(self._waiting) == IMAGES:
            self._flush()

    def _flush(self) -> None:
        examples, logits, boxes = zip(*self._waiting)
        self._waiting.clear()
        self._sums += self._loss.of(list(examples), np.stack(logits), np.stack(boxes))
        self._images += len(examples)
        self._boxes += sum(len(example.labels) for example in examples)

    def total(self) -> float:
        """The weighted sum of the terms; NaN if no image was added."""
        if self._waiting:
            self._flush()
        if not self._images:
            return float("nan")
        ce, bbox, giou = self._sums
        weights, boxes = self._loss.weights, max(self._boxes, self._images)
        return float(weights.ce * ce / self._images + (weights.bbox * bbox + weights.giou * giou) / boxes)
