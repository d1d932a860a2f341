"""Support for rare classes: repeated images, and class weights for cross entropy. Does not import jax."""

import dataclasses

import numpy as np

from yolos_jax.data.examples import ExampleTable
from yolos_jax.datasets.dataset import DataSet
from yolos_jax.errors import InputError, counted
from yolos_jax.objective.weights import LossWeights

LEAST, MOST = 0.1, 10.0  # bounds of the inverse class weights
PARTS = 65_536  # factors are rounded to multiples of 1 / PARTS, so that epochs are the same on every machine


class Repeats:
    """Draws the number of copies of each image in an epoch; the total is the same in all epochs.

    An image with factor r has floor(r) copies and, with probability r - floor(r), one more. The additional copies are
    drawn by systematic sampling: the fractions are laid end to end in a random order, and evenly spaced points with a
    random offset select the images. The number of additional copies is therefore always the sum of the fractions,
    rounded down, and the probability that an image is selected is its fraction times (that number / the sum).

    Args:
      factors: float `[n]`, the factor r of each image; at least 1.
    """

    def __init__(self, factors: np.ndarray):
        whole = np.floor(factors)
        self.whole = whole.astype(np.int64)
        self.shares = np.rint((factors - whole) * PARTS).astype(np.int64)
        self.more = int(self.shares.sum()) // PARTS  # number of additional copies
        self.count = int(self.whole.sum()) + self.more  # total number of copies in an epoch

    def places(self, random: np.random.Generator) -> np.ndarray:
        """int64 `[count]`: every image index once, in ascending order, then the indices of the additional copies.

        With this order, the first view of an image does not depend on the repeats.
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
    """Repeat factor sampling from LVIS (arXiv 1908.03195); None for a threshold of 0.

    The factor of a class that appears in a fraction f of the images is max(1, sqrt(threshold / f)). The factor of an
    image is the largest factor of its classes, or 1 if it has no boxes.
    """
    if not threshold:
        return None
    images = np.repeat(np.arange(len(examples)), examples.counts)
    labels = int(examples.labels.max(initial=0)) + 1
    image, label = np.divmod(np.unique(images * labels + examples.labels), labels)  # each class once per image
    share = np.bincount(label, minlength=labels) / len(examples)
    of_class = np.sqrt(threshold / np.where(share, share, 1.0))
    factors = np.ones(len(examples))
    np.maximum.at(factors, image, of_class[label])
    return Repeats(factors)


def class_weights_of(weights: LossWeights, source: DataSet) -> LossWeights:
    """Replaces `inverse` with the weights of the data set. Raises `InputError` unless there is one per class."""
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
    """Mean box count of classes with boxes / each class's box count, clipped to 0.1..10; 1 for classes with none."""
    used = counts > 0
    mean = counts[used].mean() if used.any() else 1.0
    weight = np.clip(mean / np.maximum(counts, 1), LEAST, MOST)
    return tuple(np.where(used, weight, 1.0).tolist())


def rare_notes(repeats: Repeats | None, weights: LossWeights, source: DataSet) -> list[str]:
    """Notes about repeated images and class weights, for the start of a run."""
    found = []
    if repeats:
        most = int((repeats.whole + (repeats.shares > 0)).max())
        copies = f"{repeats.count} views of {len(source.examples)} images, at most {most} per image"
        found.append(f"with data.repeat_threshold, an epoch has {copies}")
    if not isinstance(weights.class_weight, str):
        used = np.unique(source.examples.labels).tolist()
        by_weight = sorted((weights.class_weight[label], source.label_names.get(label, str(label))) for label in used)
        (least, light), (most_of_all, heavy) = by_weight[0], by_weight[-1]
        found.append(f"loss.class_weight ranges from {least:.3g} ({light}) to {most_of_all:.3g} ({heavy})")
    return found
