"""Draws figures of evaluation results. For `font`, see `save_figure`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolos_jax.evaluation.category_scores import CategoryScores
from yolos_jax.tasks.pictures.plotting import bar_style, line_style, new_figure, point_style, save_figure
from yolos_jax.tools.analysis.calibration import Calibration
from yolos_jax.tools.analysis.error_kinds import KINDS, ErrorCounts

SHOWN = 100  # figures show at most this number of categories (those with the most objects); tables list all
FEW = 7  # up to this number of categories, each has its own curve
WRITTEN = 25  # up to this number of categories, the confusion matrix is annotated with counts


def mean_curve(categories: CategoryScores, iou: float) -> np.ndarray:
    """float64 `[R]`, the mean of the categories' precision; NaN if there are no objects."""
    there = categories.objects > 0
    return categories.curve(iou)[:, there].mean(1) if there.any() else np.full(len(categories.recalls), np.nan)


def draw_categories(path: Path, categories: CategoryScores, font: str = "") -> None:
    """Draws AP, AP50 and AR of every category with objects, with the lowest AP at the top."""
    values = categories.table()
    there = np.flatnonzero(categories.objects)
    there = there[np.argsort(-categories.objects[there], kind="stable")][:SHOWN]
    there = there[np.argsort(-values["AP"][there], kind="stable")]
    figure, ((axis,),) = new_figure(7, 1.6 + 0.2 * len(there))
    rows = np.arange(len(there))
    for number, name in enumerate(("AP", "AP50", "AR")):
        axis.plot(values[name][there], rows, label=name, clip_on=False, zorder=3, **point_style(number))
    axis.set_yticks(rows, [f"{_short(categories.names[k])} ({categories.objects[k]})" for k in there], fontsize=8)
    axis.set(xlim=(0, 1), ylim=(-0.7, len(there) - 0.3), xlabel="average precision / average recall")
    axis.set_ylabel("class (number of objects)")
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8)
    save_figure(figure, path, font)


def draw_curves(path: Path, categories: CategoryScores, ious: Sequence[float], font: str = "") -> None:
    """Draws precision-recall curves: the mean over categories at each IoU, and each category at the first IoU."""
    figure, ((means, each),) = new_figure(10, 4.2, columns=2)
    for number, iou in enumerate(ious):
        means.plot(categories.recalls, mean_curve(categories, iou), label=f"IoU {iou:.2f}", **line_style(number))
    there = np.flatnonzero(categories.objects)
    for number, k in enumerate(there):
        grey = {"color": "#888888", "linewidth": 0.5, "alpha": 0.7}
        few = line_style(number) | {"label": _short(categories.names[k])}
        each.plot(categories.recalls, categories.curve(ious[0])[:, k], **(few if len(there) <= FEW else grey))
    if len(there) > FEW:
        each.plot(categories.recalls, mean_curve(categories, ious[0]), label="mean", **line_style(0))
    means.set_title("mean over classes", fontsize=10)
    each.set_title(f"each class, IoU {ious[0]:.2f}", fontsize=10)
    for axis in (means, each):
        axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
        if axis.lines:
            axis.legend(fontsize=8, loc="lower left")
    save_figure(figure, path, font)


def draw_confusion(path: Path, matrix: np.ndarray, names: Sequence[str], threshold: float, font: str = "") -> None:
    """Draws the matrix as fractions of each row; categories with neither objects nor detections are omitted."""
    used = matrix.sum(0) + matrix.sum(1)
    part = np.flatnonzero(used[:-1])
    part = np.append(np.sort(part[np.argsort(-used[part], kind="stable")][:SHOWN]), len(names) - 1)
    counts = matrix[np.ix_(part, part)]
    shares = counts / np.maximum(matrix[part].sum(1), 1)[:, None]
    side = max(4.5, 1.8 + 0.17 * len(part) if len(part) > WRITTEN else 2.5 + 0.42 * len(part))
    figure, ((axis,),) = new_figure(side + 0.8, side)
    shown = axis.imshow(shares, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
    labels = [_short(names[int(k)]) for k in part]
    axis.set_xticks(range(len(part)), labels, rotation=90, fontsize=7)
    axis.set_yticks(range(len(part)), labels, fontsize=7)
    axis.grid(False)
    if len(part) <= WRITTEN:
        for row, column in zip(*np.nonzero(counts)):
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = str(counts[row, column])
            axis.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    axis.set(xlabel=f"detected as (score of at least {threshold:g}, IoU of at least 0.5)", ylabel="truth")
    figure.colorbar(shown, ax=axis, label="fraction of the row", shrink=0.7)
    save_figure(figure, path, font)


def draw_errors(path: Path, errors: ErrorCounts) -> None:
    """Draws the cost and the number of errors of each kind."""
    figure, ((costs, counts),) = new_figure(10, 3.8, columns=2)
    places = np.arange(len(KINDS))
    costs.bar(places, errors.costs, **bar_style(0))
    for place, value in zip(places, errors.costs):
        costs.text(place, value, f"{value:.3f}", ha="center", va="bottom", fontsize=8)
    costs.set_title(f"AP50 lost to each kind of error (AP50 is {errors.ap50:.3f})", fontsize=10)
    counts.bar(places - 0.2, errors.counts, 0.4, label="all detections", **bar_style(0))
    counts.bar(places + 0.2, errors.above, 0.4, label=f"score >= {errors.threshold:g}", **bar_style(1))
    _logarithmic(counts, errors.counts)
    counts.set_title("number of errors", fontsize=10)
    counts.legend(fontsize=8)
    for axis in (costs, counts):
        axis.set_xticks(places, KINDS, fontsize=8)
    save_figure(figure, path)


def draw_scores(path: Path, scores: Calibration) -> None:
    """Draws the number of correct and wrong detections by score."""
    figure, ((axis,),) = new_figure(6, 4)
    width = np.diff(scores.edges)
    for number, (name, values) in enumerate((("correct", scores.right), ("wrong", scores.wrong))):
        left = scores.edges[:-1] + number * width / 2
        axis.bar(left, values, width / 2, align="edge", label=name, **bar_style(number))
    _logarithmic(axis, scores.right + scores.wrong)
    axis.set(xlabel="score", ylabel="detections", xlim=(0, 1))
    axis.set_title("detections by score (correct: IoU of at least 0.5 with an object of the class)", fontsize=10)
    axis.legend(fontsize=8)
    save_figure(figure, path)


def draw_calibration(path: Path, scores: Calibration) -> None:
    """Draws precision against score: on the diagonal, the score is the probability of being correct."""
    figure, ((axis,),) = new_figure(5, 4.8)
    there = scores.right + scores.wrong > 0
    axis.bar(scores.edges[:-1], np.nan_to_num(scores.precision), np.diff(scores.edges), align="edge", **bar_style(1))
    axis.plot([0, 1], [0, 1], label="perfect", **line_style(0) | {"linestyle": "--", "linewidth": 1.0})
    axis.plot(scores.mean_score[there], scores.precision[there], label="detections", **point_style(0))
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="mean score", ylabel="fraction correct")
    axis.set_title(f"calibration: expected error {scores.ece():.3f}", fontsize=10)
    axis.legend(fontsize=8, loc="upper left")
    save_figure(figure, path)


def _logarithmic(axis: Any, counts: np.ndarray) -> None:
    """Sets a log scale, on which both small and large values are visible."""
    if counts.any():
        axis.set_yscale("log")
        axis.set_ylim(bottom=0.7)


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"
