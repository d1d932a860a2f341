"""What an evaluation's detections are like: numbers as CSV and JSON, and a figure of each.

| file | what is in it |
|---|---|
| `per_class.csv`, `.png` | objects, AP, AP50, AP75, AR, recall of each class |
| `precision_recall.csv`, `.png` | precision at 101 recalls, for each class and their mean, at IoU 0.50 and 0.75 |
| `confusion.csv`, `.png` | which classes are taken for which, with background |
| `errors.csv`, `.png` | errors by kind, and the AP50 that each costs |
| `scores.csv`, `.png` | right and wrong detections by score |
| `calibration.csv`, `.png` | precision by score |
| `worst.csv`, `worst/` | the images with the most errors, drawn: truth beside detections |
| `summary.json` | the single numbers, and what the words mean |
| `tensorboard/` | each class's AP, AP50 and AR |
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from yolos_jax.errors import make_folder
from yolos_jax.evaluation import category_scores
from yolos_jax.evaluation.category_scores import CategoryScores
from yolos_jax.tools.analysis import error_kinds, results_figures, worst
from yolos_jax.tools.analysis.calibration import Calibration, calibration
from yolos_jax.tools.analysis.cases import FOREGROUND, cases_of
from yolos_jax.tools.analysis.confusion import confusion_matrix
from yolos_jax.tools.analysis.csv_files import write_csv
from yolos_jax.tools.analysis.error_kinds import BACKGROUND, KINDS, Split

THRESHOLD = 0.5  # score from which a detection is shown to a user, see `Detector`
IOUS = 0.5, 0.75  # of the precision-recall curves
BACK = "(background)"


def write_results(
    folder: str | Path,
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    classes: CategoryScores,
    image_ids: Sequence[int],
    read: Callable[[int], Any],
    threshold: float = THRESHOLD,
    step: int = 0,
) -> str:
    """Writes everything that this module's docstring lists.

    Args:
      folder: what is in it already stays, unless it has one of these names.
      truth: the content of a COCO annotation file.
      results: entries of a COCO results file.
      classes: see `coco_metrics.scored`.
      image_ids: images to score.
      read: (image id) -> the RGB image, which is called for the worst ones; may raise `UnreadableImage`.
      threshold: score from which a detection counts in the confusion matrix and among the worst images, 0..1.
      step: of the checkpoint, for TensorBoard.

    Returns:
      Tables to print. `InputError` if the folder cannot be written, or matplotlib is not installed.
    """
    path = make_folder(folder)
    scoring = tqdm(cases_of(truth, results, image_ids), "sorting errors", len(image_ids), unit="image", mininterval=1.0)
    cases = list(scoring)
    count = len(classes.ids)
    split = error_kinds.split(cases, count, threshold)
    matrix = confusion_matrix(cases, count, threshold)
    scores = calibration(cases)
    _write_numbers(path, classes, split, matrix, scores)
    _write_summary(path, split, scores, threshold)
    write_board(path / "tensorboard", classes, step)
    results_figures.draw_classes(path / "per_class.png", classes)
    results_figures.draw_curves(path / "precision_recall.png", classes, IOUS)
    results_figures.draw_confusion(path / "confusion.png", matrix, [*classes.names, BACK], threshold)
    results_figures.draw_errors(path / "errors.png", split)
    results_figures.draw_scores(path / "scores.png", scores)
    results_figures.draw_calibration(path / "calibration.png", scores)
    skipped = worst.draw(path, cases, list(classes.names), read, threshold)
    return "\n\n".join([classes.text(), errors_text(split), calibration_text(scores, threshold), *skipped])


def _write_numbers(path: Path, classes: CategoryScores, split: Split, matrix: np.ndarray, scores: Calibration) -> None:
    named: dict[str, Any] = {"id": classes.ids, "name": classes.names, "objects": classes.objects}
    values = {name: np.where(column < 0, np.nan, column) for name, column in classes.table().items()}
    write_csv(path / "per_class.csv", named | values)
    curves = {f"{iou:.2f} {name}": classes.curve(iou)[:, k] for iou in IOUS for k, name in enumerate(classes.names)}
    means = {f"{iou:.2f} mean": results_figures.mean_curve(classes, iou) for iou in IOUS}
    write_csv(path / "precision_recall.csv", {"recall": classes.recalls} | means | curves)
    names = [*classes.names, BACK]
    write_csv(path / "confusion.csv", {"truth": names} | {f"as {n}": column for n, column in zip(names, matrix.T)})
    meaning = [error_kinds.MEANING[kind] for kind in KINDS]
    errors: dict[str, Any] = {
        "kind": KINDS,
        "all": split.counts,
        "above threshold": split.above,
        "AP50 lost": split.costs,
    }
    write_csv(path / "errors.csv", errors | {"meaning": meaning})
    bins: dict[str, Any] = {
        "from": scores.edges[:-1],
        "to": scores.edges[1:],
        "right": scores.right,
        "wrong": scores.wrong,
    }
    write_csv(path / "scores.csv", bins)
    write_csv(path / "calibration.csv", bins | {"mean score": scores.mean_score, "precision": scores.precision})


def _write_summary(path: Path, split: Split, scores: Calibration, threshold: float) -> None:
    summary = {
        "AP50": split.ap50,
        "threshold": threshold,
        "iou_foreground": FOREGROUND,
        "iou_background": BACKGROUND,
        "ece": _or_none(scores.ece()),
        "ece_above_threshold": _or_none(scores.ece(threshold)),
        "errors": {kind: {"all": int(n), "above_threshold": int(a), "AP50_lost": float(c)} for kind, n, a, c in
                   zip(KINDS, split.counts, split.above, split.costs)},
        "meaning": category_scores.MEANING | error_kinds.MEANING,
    }  # fmt: skip
    (path / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def write_board(path: Path, classes: CategoryScores, step: int) -> None:
    """Each class's numbers as TensorBoard's scalars."""
    from tensorboardX import SummaryWriter  # brings PyTorch along where that is installed: two seconds

    with SummaryWriter(str(path)) as board:
        for name, value in classes.scalars().items():
            board.add_scalar(f"val/{name}", value, step)


def errors_text(split: Split) -> str:
    """Errors by kind, a line each."""
    head = f"{'error':<10}  {'all':>8}  {f'score >= {split.threshold:g}':>12}  {'AP50 lost':>9}  meaning"
    rows = [
        f"{kind:<10}  {split.counts[i]:>8}  {split.above[i]:>12}  {split.costs[i]:>9.4f}  {error_kinds.MEANING[kind]}"
        for i, kind in enumerate(KINDS)
    ]
    return "\n".join([head, *rows])


def calibration_text(scores: Calibration, threshold: float) -> str:
    """The expected calibration error in a line."""
    found = [f"{scores.ece():.4f} of all detections", f"{scores.ece(threshold):.4f} of those from {threshold:g} on"]
    return f"expected calibration error at IoU 0.5: {', '.join(text.replace('nan', '-') for text in found)}"
