"""Kinds of detection errors, as in TIDE (Bolya et al. 2020, arXiv 2008.08115).

Every false positive under COCO's rule at IoU 0.5 is assigned the first kind below that applies. The cost of a kind is
the gain in AP50 if only its errors are corrected: a wrong class or location is corrected once for each object, other
wrong detections are removed, and missed objects are dropped from the ground truth. If several errors have the same
target object, the one with the highest score is corrected, regardless of its kind, and the others are removed.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from yolos_jax.tools.analysis.matched_images import FOREGROUND, MatchedImage

BACKGROUND = 0.1  # IoU below which a detection is unrelated to an object
LOCATION, CLASS, DUPLICATE, BACK, BOTH, MISSED = KINDS = (
    "location", "class", "duplicate", "background", "both", "missed",
)  # fmt: skip
MEANING = {
    LOCATION: "IoU of 0.1 to 0.5 with an object of its class",
    CLASS: "IoU of at least 0.5 with an object of another class",
    DUPLICATE: "IoU of at least 0.5 with an object of its class that is already matched to a better detection",
    BACK: "IoU below 0.1 with every object",
    BOTH: "IoU of 0.1 to 0.5 with an object of another class: class and location are wrong",
    MISSED: "an object that no detection would match, even with a corrected class or location",
}
NONE = -1


class ImageErrors(NamedTuple):
    """Errors of one image."""

    kinds: np.ndarray  # int64 [n], indices in KINDS; NONE for correct or ignored detections
    targets: np.ndarray  # int64 [n], the object that the corrected detection would find; NONE if there is none
    missed: np.ndarray  # bool [m]


class ErrorCounts(NamedTuple):
    """Errors of all images, one entry for each of `KINDS`."""

    counts: np.ndarray  # int64, errors among all detections
    above: np.ndarray  # int64, errors with a score of at least `threshold`; missed objects are in both counts
    costs: np.ndarray  # float64, the AP50 lost to each kind of error
    ap50: float
    threshold: float


class Detected(NamedTuple):
    """All detections that count, concatenated over images; objects are numbered across images."""

    scores: np.ndarray
    labels: np.ndarray
    right: np.ndarray
    kinds: np.ndarray
    targets: np.ndarray  # NONE for all but the best detection of each object
    repaired: np.ndarray  # the label of the target object


def errors_of(image: MatchedImage) -> ImageErrors:
    """Classifies every error in an image; crowds do not count as objects."""
    real = ~image.crowd
    # The extra column stands for "no object", so that max and argmax work without objects.
    overlaps = np.concatenate([image.overlaps[:, real], np.zeros((len(image.labels), 1))], axis=1)
    place = np.append(np.flatnonzero(real), NONE)
    same = np.append(image.true_labels[real], NONE) == image.labels[:, None]
    taken = np.append(image.found[real], False)
    own = np.where(same, overlaps, 0.0)
    others = np.where(~same, overlaps, 0.0)
    gone = np.where(same & taken, overlaps, 0.0)
    fits = [
        (own.max(1) >= BACKGROUND) & (own.max(1) < FOREGROUND),
        others.max(1) >= FOREGROUND,
        gone.max(1) >= FOREGROUND,
        overlaps.max(1) < BACKGROUND,
    ]
    wrong = ~(image.right | image.ignored)
    kinds = np.where(wrong, np.select(fits, range(4), KINDS.index(BOTH)), NONE)
    aims = np.select([kinds == 0, kinds == 1], [own.argmax(1), others.argmax(1)], len(place) - 1)
    targets = np.where(taken[aims], NONE, place[aims])
    missed = real & ~image.found
    missed[targets[targets >= 0]] = False
    return ImageErrors(kinds, targets, missed)


def count_errors(images: Iterable[MatchedImage], categories: int, threshold: float = 0.5) -> ErrorCounts:
    """Computes the number and the cost of the errors of each kind.

    Args:
      categories: number of categories in the ground truth.
      threshold: minimum score of the detections in `ErrorCounts.above`.
    """
    detected, objects, missed = _collected(images, categories)
    now = ap50(detected.scores, detected.labels, detected.right, objects)
    counts = []
    above = []
    costs = []
    for number in range(len(KINDS) - 1):  # all but missed objects
        mine = detected.kinds == number
        counts.append(int(mine.sum()))
        above.append(int((mine & (detected.scores >= threshold)).sum()))
        costs.append(_repaired(detected, number, objects) - now)
    lost = int(missed.sum())
    left = objects - missed  # a class without remaining objects and without detections is omitted from the mean
    asked = (left > 0) | ((objects > 0) & (np.bincount(detected.labels, minlength=categories) > 0))
    costs.append(ap50(detected.scores, detected.labels, detected.right, left, asked) - now)
    return ErrorCounts(np.array([*counts, lost]), np.array([*above, lost]), np.array(costs), now, threshold)


def _collected(images: Iterable[MatchedImage], categories: int) -> tuple[Detected, np.ndarray, np.ndarray]:
    """The detections of all images, and the number of objects and of missed objects per category, int64 `[K]`."""
    objects, missed = np.zeros(categories, np.int64), np.zeros(categories, np.int64)
    empty = Detected(np.zeros(0), *[np.zeros(0, np.int64)] * 5)
    parts = [empty._replace(right=np.zeros(0, bool))]
    before = 0  # number of objects in the previous images
    for image in images:
        errors = errors_of(image)
        objects += np.bincount(image.true_labels[~image.crowd], minlength=categories)
        missed += np.bincount(image.true_labels[errors.missed], minlength=categories)
        repaired = np.append(image.true_labels, NONE)[errors.targets]
        targets = np.where(_first(errors.targets), errors.targets + before, NONE)
        before += len(image.crowd)
        values = Detected(image.scores, image.labels, image.right, errors.kinds, targets, repaired)
        parts.append(Detected(*(value[~image.ignored] for value in values)))
    return Detected(*map(np.concatenate, zip(*parts))), objects, missed


def _first(targets: np.ndarray) -> np.ndarray:
    """bool `[n]`: whether a detection is the best of those assigned to its object."""
    first = np.zeros(len(targets), bool)
    first[np.unique(targets, return_index=True)[1]] = True
    return first & (targets >= 0)


def _repaired(detected: Detected, number: int, objects: np.ndarray) -> float:
    """AP50 after the errors of one kind are corrected or removed."""
    mine = detected.kinds == number
    kept = ~mine | (detected.targets >= 0)
    labels = np.where(mine, detected.repaired, detected.labels)
    return ap50(detected.scores[kept], labels[kept], (detected.right | mine)[kept], objects)


def ap50(
    scores: np.ndarray, labels: np.ndarray, right: np.ndarray, objects: np.ndarray, asked: np.ndarray | None = None
) -> float:
    """COCO's average precision from the correctness of detections, averaged over the requested classes.

    Args:
      scores, labels, right: `[n]`, of all detections, image by image and best first.
      objects: int `[K]`, the number of objects of each class.
      asked: bool `[K]`, classes to average over; by default those with objects. A class without objects has an AP of 0.

    Returns:
      The mean, 0..1; -1 if no class is requested.
    """
    asked = objects > 0 if asked is None else asked
    order = np.argsort(-scores, kind="stable")
    order = order[np.argsort(labels[order], kind="stable")]  # by class, best first
    edges = np.searchsorted(labels[order], np.arange(len(objects) + 1))
    ordered = right[order]
    values = []
    for k in np.flatnonzero(asked):
        of_class = ordered[edges[k] : edges[k + 1]]
        values.append(average_precision(of_class, int(objects[k])) if objects[k] else 0.0)
    return float(np.mean(values)) if values else -1.0


def average_precision(right: Sequence[bool] | np.ndarray, objects: int) -> float:
    """101-point AP: averages the highest precision at each recall or above; detections are sorted by score."""
    hits = np.cumsum(right, dtype=np.float64)
    precision = hits / np.arange(1, len(hits) + 1)
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(best[np.searchsorted(hits / objects, np.linspace(0, 1, 101), side="left")].mean())
