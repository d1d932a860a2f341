"""Predictions of every DET token over a split: position, size, category (the paper's Figures 2 and 3)."""

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yolos_jax.datasets.dataset import DataSet
from yolos_jax.errors import InputError, make_folder
from yolos_jax.evaluation.coco_metrics import to_results
from yolos_jax.evaluation.evaluator import Evaluator
from yolos_jax.inference.outputs import JsonList
from yolos_jax.tools.analysis.tables import write_rows
from yolos_jax.tools.survey import AREAS

SIZES = ("small", "medium", "large")
MOST_DRAWN = 5000  # maximum number of images whose boxes are kept for the figure; enough for COCO's validation split


class Drawn(NamedTuple):
    """Boxes for the figure, from the first tokens and the first images of the split."""

    centres: np.ndarray  # float32 [tokens, n, 2], x and y as fractions of the image's sides
    sizes: np.ndarray  # int8 [tokens, n], index into SIZES


class TokenTable:
    """Accumulates the tokens' predictions over images, in constant memory.

    Args:
      det_tokens, num_classes: Q and K of the model.
      images: number of images in the split.
      tokens: number of tokens, starting with the first, whose boxes in the first `MOST_DRAWN` images are kept.
      confident: minimum score of a confident prediction.
    """

    def __init__(self, det_tokens: int, num_classes: int, images: int, tokens: int = 10, confident: float = 0.5):
        self.images, self.confident = 0, confident
        self._sums = np.zeros((det_tokens, 7))  # sums of x, y, x^2, y^2, width, height, score
        self._sizes = np.zeros((det_tokens, len(SIZES)), np.int64)
        self._sure = np.zeros(det_tokens, np.int64)
        self.classes = np.zeros((det_tokens, num_classes), np.int64)  # predictions of each class, by token
        shape = min(tokens, det_tokens), min(images, MOST_DRAWN)
        self._drawn_centres, self._drawn_sizes = np.full((*shape, 2), np.nan, np.float32), np.zeros(shape, np.int8)

    def add(self, index: int, size: np.ndarray, scores: np.ndarray, labels: np.ndarray, boxes: np.ndarray) -> None:
        """Adds an image.

        Args:
          index: its index in the split.
          size: `[2]`, its (width, height) in pixels.
          scores, labels, boxes: `[Q]`, `[Q]`, `[Q, 4]` absolute xyxy, of each token, as returned by `postprocess`.
        """
        boxes = np.asarray(boxes, np.float64)
        centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2 / size, boxes[:, 2:] - boxes[:, :2]
        box_sizes = size_index(sides.prod(1))
        self.images += 1
        self._sums += np.column_stack([centres, centres**2, sides / size, scores])
        self._sizes[np.arange(len(box_sizes)), box_sizes] += 1
        self.classes[np.arange(len(labels)), labels] += 1
        self._sure += np.asarray(scores) >= self.confident
        tokens, drawn = self._drawn_sizes.shape
        if index < drawn:
            self._drawn_centres[:, index], self._drawn_sizes[:, index] = centres[:tokens], box_sizes[:tokens]

    @property
    def drawn(self) -> Drawn:
        """The data for Figure 2."""
        there = ~np.isnan(self._drawn_centres[..., 0]).any(0)
        return Drawn(self._drawn_centres[:, there], self._drawn_sizes[:, there])

    def rows(self, names: dict[int, str]) -> list[dict[str, Any]]:
        """One row per token. Centres, spreads (standard deviations) and sides are fractions of the image's sides."""
        x, y, xx, yy, width, height, score = (self._sums / max(self.images, 1)).T
        spread_x, spread_y = np.sqrt(np.maximum(xx - x**2, 0)), np.sqrt(np.maximum(yy - y**2, 0))
        out = []
        for token, counts in enumerate(self.classes):
            top = int(counts.argmax())
            sizes = dict(zip(SIZES, self._sizes[token].tolist()))
            out.append({
                "token": token, "images": self.images, "x": float(x[token]), "y": float(y[token]),
                "spread_x": float(spread_x[token]), "spread_y": float(spread_y[token]), "width": float(width[token]),
                "height": float(height[token]), **sizes, "score": float(score[token]),
                "confident": int(self._sure[token]), "classes": int((counts > 0).sum()),
                "top_class": names.get(top, str(top)), "top_class_share": float(counts[top] / max(counts.sum(), 1)),
            })  # fmt: skip
        return out

    def class_rows(self, truth: np.ndarray, names: dict[int, str]) -> list[dict[str, Any]]:
        """One row per annotated or predicted class, most annotated first; `truth`, int `[K]`, counts the boxes."""
        predicted, all_true = self.classes.sum(0), max(int(truth.sum()), 1)
        all_predicted = max(int(predicted.sum()), 1)
        order = np.argsort(-truth, kind="stable")
        return [
            {"label": int(label), "name": names.get(int(label), str(label)),
             "annotated": int(truth[label]), "annotated_share": float(truth[label] / all_true),
             "predicted": int(predicted[label]), "predicted_share": float(predicted[label] / all_predicted)}
            for label in order if truth[label] or predicted[label]
        ]  # fmt: skip

    def pairs(self, names: dict[int, str]) -> list[dict[str, Any]]:
        """One row for each token and each class that it predicts."""
        return [
            {"token": int(token), "label": int(label), "name": names.get(int(label), str(label)),
             "predicted": int(self.classes[token, label])}
            for token, label in zip(*np.nonzero(self.classes))
        ]  # fmt: skip


def size_index(area: np.ndarray) -> np.ndarray:
    """Index into SIZES for areas in square pixels."""
    return np.searchsorted(AREAS, area, side="right")


def examine_tokens(
    evaluator: Evaluator, params: dict, out: Path, names: dict[int, str], tokens: int = 10, confident: float = 0.5
) -> tuple[TokenTable, list[dict[str, Any]], list[str]]:
    """Runs the network on all images and writes the tables.

    Writes `predictions.json` (a COCO results file of all queries, with their token numbers), `tokens.csv`,
    `classes.csv` and `token_classes.csv` to the folder `out`, which is created if necessary.

    Args:
      names: class names by label.
      tokens, confident: see `TokenTable`.

    Returns:
      The table, the rows of `classes.csv`, and a message for each unreadable image. Raises `InputError` if
      the split has no boxes.
    """
    source, config = evaluator.source, evaluator.model
    truth = truth_of(source, config.num_classes)
    make_folder(out)
    table = TokenTable(config.det_tokens, config.num_classes, len(source.examples), tokens, confident)
    category = np.array(source.category_ids)

    with contextlib.closing(JsonList(out / "predictions.json")) as predictions:

        def take(index: int, found: tuple[np.ndarray, ...]) -> None:
            scores, labels, boxes = found
            table.add(index, source.examples.sizes[index], scores, labels, boxes)
            entries = to_results(source.examples.image_ids[index], scores, category[labels], boxes)
            for token, entry in enumerate(entries):
                predictions.add(entry | {"token": token})

        skipped = evaluator.detect(params, take, doing="examining tokens") or []
    classes = table.class_rows(truth, names)
    write_rows(out / "tokens.csv", table.rows(names))
    write_rows(out / "classes.csv", classes)
    write_rows(out / "token_classes.csv", table.pairs(names))
    return table, classes, skipped


def truth_of(source: DataSet, num_classes: int) -> np.ndarray:
    """int `[K]`, the number of annotated boxes of each label, without crowds. Raises `InputError` if there are none."""
    labels = source.examples.labels
    if not len(labels):
        raise InputError(
            f"{source.origin} has no boxes to compare the tokens' classes with; choose a split with boxes "
            "(--config.data.val_split)."
        )
    return np.bincount(labels, minlength=num_classes)
