"""The error analysis of an evaluation: values as CSV and JSON files, and figures.

| file | content |
|---|---|
| `per_class.csv`, `.png` | objects, AP, AP50, AP75, AR, recall of each class |
| `precision_recall.csv`, `.png` | precision at 101 recalls, for each class and averaged, at IoU 0.50 and 0.75 |
| `confusion.csv`, `.png` | the confusion matrix, including background |
| `errors.csv`, `.png` | errors by kind, and the AP50 lost to each kind |
| `scores.csv`, `.png` | correct and wrong detections by score |
| `calibration.csv`, `.png` | precision by score |
| `worst.csv`, `worst/` | the images with the most errors: ground truth and detections side by side |
| `summary.json` | scalar results, and definitions |
| `tensorboard/` | each class's AP, AP50 and AR |
"""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from yolos_jax.errors import make_folder
from yolos_jax.evaluation import category_scores
from yolos_jax.evaluation.category_scores import CategoryScores
from yolos_jax.tasks.sinks.tensorboard import Board
from yolos_jax.tools.analysis import error_kinds, results_figures
from yolos_jax.tools.analysis.calibration import Calibration, calibration
from yolos_jax.tools.analysis.confusion import confusion_matrix
from yolos_jax.tools.analysis.error_kinds import BACKGROUND, KINDS, ErrorCounts, count_errors
from yolos_jax.tools.analysis.matched_images import FOREGROUND, matched_images
from yolos_jax.tools.analysis.tables import write_csv
from yolos_jax.tools.analysis.worst_images import draw_worst

THRESHOLD = 0.5  # default score threshold; see `Detector`
IOUS = 0.5, 0.75  # IoU thresholds of the precision-recall curves
BACK = "(background)"


def write_results(
    folder: str | Path,
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    categories: CategoryScores,
    image_ids: Sequence[int],
    read: Callable[[int], Any],
    threshold: float = THRESHOLD,
    step: int = 0,
    font: str = "",
) -> str:
    """Writes all files listed in this module's docstring.

    Args:
      folder: the output folder; existing files with other names are kept.
      truth: the content of a COCO annotation file.
      results: entries of a COCO results file.
      categories: see `coco_metrics.scored`.
      image_ids: images to score.
      read: returns the RGB image with a given id; called for the worst images; may raise `UnreadableImage`.
      threshold: minimum score of a detection in the confusion matrix and the worst images, 0..1.
      step: the checkpoint's step, for TensorBoard.
      font: a font file for class names; by default DejaVu Sans.

    Returns:
      Tables to print. Raises `InputError` if the folder cannot be written to or matplotlib is not installed.
    """
    path = make_folder(folder)
    matching = matched_images(truth, results, image_ids)
    images = list(tqdm(matching, "analysing errors", len(image_ids), unit="image", mininterval=1.0))
    count = len(categories.ids)
    errors = count_errors(images, count, threshold)
    matrix = confusion_matrix(images, count, threshold)
    scores = calibration(images)
    _write_category_tables(path, categories)
    _write_error_tables(path, errors, matrix, [*categories.names, BACK])
    _write_score_tables(path, scores)
    _write_summary(path, errors, scores, threshold)
    write_board(path / "tensorboard", categories, step)
    results_figures.draw_categories(path / "per_class.png", categories, font)
    results_figures.draw_curves(path / "precision_recall.png", categories, IOUS, font)
    results_figures.draw_confusion(path / "confusion.png", matrix, [*categories.names, BACK], threshold, font)
    results_figures.draw_errors(path / "errors.png", errors)
    results_figures.draw_scores(path / "scores.png", scores)
    results_figures.draw_calibration(path / "calibration.png", scores)
    skipped = draw_worst(path, images, categories.names, read, threshold, font)
    return "\n\n".join([categories.text(), errors_text(errors), calibration_text(scores, threshold), *skipped])


def _write_category_tables(path: Path, categories: CategoryScores) -> None:
    named: dict[str, Any] = {"id": categories.ids, "name": categories.names, "objects": categories.objects}
    values = {name: np.where(column < 0, np.nan, column) for name, column in categories.table().items()}
    write_csv(path / "per_class.csv", named | values)
    curves: dict[str, Any] = {"recall": categories.recalls}
    for iou in IOUS:
        curves[f"{iou:.2f} mean"] = results_figures.mean_curve(categories, iou)
    for iou in IOUS:
        for name, curve in zip(categories.names, categories.curve(iou).T):
            curves[f"{iou:.2f} {name}"] = curve
    write_csv(path / "precision_recall.csv", curves)


def _write_error_tables(path: Path, errors: ErrorCounts, matrix: np.ndarray, names: Sequence[str]) -> None:
    detected_as = {f"as {name}": column for name, column in zip(names, matrix.T)}
    write_csv(path / "confusion.csv", {"truth": names} | detected_as)
    columns: dict[str, Any] = {
        "kind": KINDS,
        "all": errors.counts,
        "above threshold": errors.above,
        "AP50 lost": errors.costs,
        "meaning": [error_kinds.MEANING[kind] for kind in KINDS],
    }
    write_csv(path / "errors.csv", columns)


def _write_score_tables(path: Path, scores: Calibration) -> None:
    edges: dict[str, Any] = {"from": scores.edges[:-1], "to": scores.edges[1:]}
    bins = edges | {"right": scores.right, "wrong": scores.wrong}
    write_csv(path / "scores.csv", bins)
    write_csv(path / "calibration.csv", bins | {"mean score": scores.mean_score, "precision": scores.precision})


def _write_summary(path: Path, errors: ErrorCounts, scores: Calibration, threshold: float) -> None:
    kinds = {}
    for kind, count, above, cost in zip(KINDS, errors.counts, errors.above, errors.costs):
        kinds[kind] = {"all": int(count), "above_threshold": int(above), "AP50_lost": float(cost)}
    summary = {
        "AP50": errors.ap50,
        "threshold": threshold,
        "iou_foreground": FOREGROUND,
        "iou_background": BACKGROUND,
        "ece": _or_none(scores.ece()),
        "ece_above_threshold": _or_none(scores.ece(threshold)),
        "errors": kinds,
        "meaning": category_scores.MEANING | error_kinds.MEANING,
    }
    (path / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def write_board(path: Path, categories: CategoryScores, step: int) -> None:
    """Writes each category's metrics as TensorBoard scalars."""
    with contextlib.closing(Board(path, step)) as board:
        board.add(step, {f"val/{name}": value for name, value in categories.scalars().items()})


def errors_text(errors: ErrorCounts) -> str:
    """A table of the errors, one line for each kind."""
    lines = [f"{'error':<10}  {'all':>8}  {f'score >= {errors.threshold:g}':>12}  {'AP50 lost':>9}  meaning"]
    for kind, count, above, cost in zip(KINDS, errors.counts, errors.above, errors.costs):
        lines.append(f"{kind:<10}  {count:>8}  {above:>12}  {cost:>9.4f}  {error_kinds.MEANING[kind]}")
    return "\n".join(lines)


def calibration_text(scores: Calibration, threshold: float) -> str:
    """The expected calibration error on one line."""
    found = [f"{scores.ece():.4f} over all detections", f"{scores.ece(threshold):.4f} for scores >= {threshold:g}"]
    return f"expected calibration error at IoU 0.5: {', '.join(found).replace('nan', '-')}"
