"""A recipe's support for rare classes: repeated images, and class weights in cross entropy. No jax here."""

import dataclasses

import numpy as np

from yolos_jax.data.examples import ExampleTable
from yolos_jax.datasets.dataset import DataSet
from yolos_jax.errors import InputError, counted
from yolos_jax.objective.weights import LossWeights

LEAST, MOST = 0.1, 10.0  # bounds of weights from counts
PARTS = 65_536  # fractions of a copy are multiples of 1 / PARTS, so that epochs are equal on every machine


class Repeats:
    """The number of copies of each image in an epoch; the total is the same for all epochs.

    An image of factor r has floor(r) copies and, with probability r - floor(r), one more. The additional copies are
    drawn by systematic sampling: the fractions are laid end to end in a random order, and equidistant points with a
    random offset select the images. So the number of additional copies is always the sum of the fractions, rounded
    down, and an image's probability is its fraction times (that number / the sum).

    Args:
      factors: float `[n]`, the factor r of each image, at least 1.
    """

    def __init__(self, factors: np.ndarray):
        whole = np.floor(factors)
        self.whole = whole.astype(np.int64)
        self.shares = np.rint((factors - whole) * PARTS).astype(np.int64)
        self.more = int(self.shares.sum()) // PARTS  # images with an additional copy
        self.count = int(self.whole.sum()) + self.more  # copies in an epoch

    def places(self, random: np.random.Generator) -> np.ndarray:
        """int64 `[count]`: every image once, in order, then the additional copies.

        So the first view of an image does not depend on the repeated images.
        """
        images = np.arange(len(self.whole))
        order = random.permutation(len(images))
        ends = np.cumsum(self.shares[order])
        length = int(ends[-1])
        start = random.integers(max(length, 1))
        points = (start + length * np.arange(self.more)) // max(self.more, 1)
        chosen = order[np.searchsorted(ends, points, "right")]
        return np.concatenate([images, np.repeat(images, self.whole - 1), np.sort(chosen)])


def repeats_of(examples: ExampleTable, threshold: float) -> Repeats | None:
    """LVIS's repeat factor sampling (arXiv 1908.03195); None for a threshold of 0.

    A class in a fraction f of the images has the factor max(1, sqrt(threshold / f)), and an image has the largest
    factor of its classes, or 1 without boxes.
    """
    if not threshold:
        return None
    images = np.repeat(np.arange(len(examples)), examples.counts)
    labels = int(examples.labels.max(initial=0)) + 1
    image, label = np.divmod(np.unique(images * labels + examples.labels), labels)  # each class of an image once
    share = np.bincount(label, minlength=labels) / len(examples)
    of_class = np.sqrt(threshold / np.where(share, share, 1.0))
    factors = np.ones(len(examples))
    np.maximum.at(factors, image, of_class[label])
    return Repeats(factors)


def class_weights_of(weights: LossWeights, source: DataSet) -> LossWeights:
    """Weights with `inverse` replaced by numbers; `InputError` if there is not one number per class."""
    given, classes = weights.class_weight, source.num_classes
    if given == "inverse":
        counts = np.bincount(source.examples.labels, minlength=classes)
        return dataclasses.replace(weights, class_weight=inverse_weights(counts))
    if given != "none" and len(given) != classes:
        raise InputError(
            f"loss.class_weight has {counted(len(given), 'number')}, but {source.origin} has {classes} classes (labels "
            f"0 to {classes - 1}); set one number per class, or inverse."
        )
    return weights


def inverse_weights(counts: np.ndarray) -> tuple[float, ...]:
    """Mean count of the classes with boxes / each class's count, clipped to 0.1..10; 1 for classes without boxes."""
    used = counts > 0
    mean = counts[used].mean() if used.any() else 1.0
    weight = np.clip(mean / np.maximum(counts, 1), LEAST, MOST)
    return tuple(np.where(used, weight, 1.0).tolist())


def rare_notes(repeats: Repeats | None, weights: LossWeights, source: DataSet) -> list[str]:
    """Notes about repeats and weights at the start of a run."""
    found = []
    if repeats:
        most = int((repeats.whole + (repeats.shares > 0)).max())
        copies = f"{repeats.count} views of {len(source.examples)} images, at most {most} of each"
        found.append(f"with data.repeat_threshold, an epoch has {copies}")
    if not isinstance(weights.class_weight, str):
        used = np.unique(source.examples.labels).tolist()
        by_weight = sorted((weights.class_weight[label], source.label_names.get(label, str(label))) for label in used)
        (least, light), (most_of_all, heavy) = by_weight[0], by_weight[-1]
        found.append(f"loss.class_weight goes from {least:.3g} ({light}) to {most_of_all:.3g} ({heavy})")
    return found
