"""The confusion matrix, with background as one of the categories."""

from collections.abc import Iterable

import numpy as np

from yolos_jax.tools.analysis.matched_images import FOREGROUND, MatchedImage


def confusion_matrix(images: Iterable[MatchedImage], categories: int, threshold: float = 0.5) -> np.ndarray:
    """int64 `[K + 1, K + 1]`: how many objects of each category (row) were detected as each category (column).

    Detections and objects are paired regardless of category, by decreasing IoU, down to 0.5. The last column counts
    undetected objects, the last row detections of background. Unpaired detections in a crowd of their category are
    ignored.

    Args:
      categories: number of categories in the ground truth.
      threshold: minimum score of a detection.
    """
    matrix = np.zeros((categories + 1, categories + 1), np.int64)
    for image in images:
        kept, real = image.scores >= threshold, ~image.crowd
        labels = image.labels[kept]
        truth = image.true_labels[real]
        overlaps = image.overlaps[kept]
        rows, columns = paired(overlaps[:, real], labels[:, None] == truth)
        np.add.at(matrix, (truth[columns], labels[rows]), 1)
        of_crowd = labels[:, None] == image.true_labels[image.crowd]
        in_crowd = (overlaps[:, image.crowd] >= FOREGROUND) & of_crowd
        alone = ~in_crowd.any(1)
        alone[rows] = False
        undetected = np.ones(len(truth), bool)
        undetected[columns] = False
        np.add.at(matrix, (categories, labels[alone]), 1)
        np.add.at(matrix, (truth[undetected], categories), 1)
    return matrix


def paired(overlaps: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs rows and columns of `[n, m]` overlaps, each at most once, largest overlap first; returns (rows, columns).

    If overlaps are equal, pairs of the same category come first.
    """
    rows, columns = np.nonzero(overlaps >= FOREGROUND)
    order = np.lexsort((~same[rows, columns], -overlaps[rows, columns]))
    free_rows, free_columns = set(rows.tolist()), set(columns.tolist())
    pairs = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist()):
        if row in free_rows and column in free_columns:
            free_rows.remove(row)
            free_columns.remove(column)
            pairs.append((row, column))
    both = np.array(pairs, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]
