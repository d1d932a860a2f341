"""Which classes are taken for which: the confusion matrix, with background as a class."""

from collections.abc import Iterable

import numpy as np

from yolos_jax.tools.analysis.cases import FOREGROUND, Case


def confusion_matrix(cases: Iterable[Case], classes: int, threshold: float = 0.5) -> np.ndarray:
    """int64 `[K + 1, K + 1]`: how many objects of each class (row) were detected as each class (column).

    Detections and objects are paired whatever their classes, those that overlap most first, down to IoU 0.5. The last
    column holds objects that were not detected, the last row detections of nothing. Detections in a crowd of their
    class are left out, unless they are paired.

    Args:
      classes: number of the ground truth's categories.
      threshold: lowest score of a detection.
    """
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    for case in cases:
        kept, real = case.scores >= threshold, ~case.crowd
        labels, truth = case.labels[kept], case.true_labels[real]
        rows, columns = paired(case.overlaps[kept][:, real], labels[:, None] == truth)
        np.add.at(matrix, (truth[columns], labels[rows]), 1)
        in_crowd = (case.overlaps[kept][:, case.crowd] >= FOREGROUND) & (
            labels[:, None] == case.true_labels[case.crowd]
        )
        alone = ~in_crowd.any(1)
        alone[rows] = False
        undetected = np.ones(len(truth), bool)
        undetected[columns] = False
        np.add.at(matrix, (classes, labels[alone]), 1)
        np.add.at(matrix, (truth[undetected], classes), 1)
    return matrix


def paired(overlaps: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) of the pairs of `[n, m]` overlaps, each row and column in one at most, the largest first.

    Of equal overlaps, those of one class come first.
    """
    rows, columns = np.nonzero(overlaps >= FOREGROUND)
    order = np.lexsort((~same[rows, columns], -overlaps[rows, columns]))
    free_rows, free_columns, pairs = set(rows.tolist()), set(columns.tolist()), []
    for row, column in zip(rows[order].tolist(), columns[order].tolist()):
        if row in free_rows and column in free_columns:
            free_rows.remove(row)
            free_columns.remove(column)
            pairs.append((row, column))
    both = np.array(pairs, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]
