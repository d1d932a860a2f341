"""Calibration: correct and wrong detections by score, and the expected calibration error."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from yolos_jax.tools.analysis.matched_images import MatchedImage

BINS = 20  # number of bins, of equal width


class Calibration(NamedTuple):
    """Detections by score, `B` bins from 0 to 1; a bin includes its lower edge, and the last bin also includes 1."""

    edges: np.ndarray  # float64 [B + 1]
    right: np.ndarray  # int64 [B], detections matched to an object of their category at IoU 0.5
    wrong: np.ndarray  # int64 [B], all other detections
    mean_score: np.ndarray  # float64 [B]; NaN for an empty bin

    @property
    def precision(self) -> np.ndarray:
        """float64 `[B]`, the fraction of correct detections; NaN for an empty bin."""
        with np.errstate(invalid="ignore"):
            return self.right / (self.right + self.wrong)

    def ece(self, least: float = 0.0) -> float:
        """Expected calibration error: the mean absolute difference between score and precision, weighted by detections.

        Args:
          least: only bins that start at this score or above are used; the result is NaN if they are all empty.
        """
        used = (self.edges[:-1] >= least - 1e-9) & (self.right + self.wrong > 0)
        if not used.any():
            return float("nan")
        gaps = np.abs(self.precision - self.mean_score)[used]
        return float(np.average(gaps, weights=(self.right + self.wrong)[used]))


def calibration(images: Iterable[MatchedImage], bins: int = BINS) -> Calibration:
    """Counts correct and wrong detections by score; detections matched to a crowd are ignored."""
    right, wrong, sums = (np.zeros(bins) for _ in range(3))
    for image in images:
        counted = ~image.ignored
        scores, hit = image.scores[counted], image.right[counted]
        place = np.clip((scores * bins).astype(np.int64), 0, bins - 1)
        right += np.bincount(place[hit], minlength=bins)
        wrong += np.bincount(place[~hit], minlength=bins)
        sums += np.bincount(place, scores, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = sums / (right + wrong)
    return Calibration(np.linspace(0, 1, bins + 1), right.astype(np.int64), wrong.astype(np.int64), mean)
