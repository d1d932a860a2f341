"""COCO metrics per category: average precision, recall, and their curves."""

import re
from typing import Any, NamedTuple

import numpy as np

from yolos_jax.datasets.category_names import distinct, on_one_line

COLUMNS = ("AP", "AP50", "AP75", "AR", "recall50")
MEANING = {
    "AP": "average precision over the IoU thresholds 0.50, 0.55, ..., 0.95",
    "AP50": "average precision at IoU 0.50",
    "AP75": "average precision at IoU 0.75",
    "AR": "average recall over the same thresholds, with at most 100 detections per image",
    "recall50": "recall at IoU 0.50",
}


class CategoryScores(NamedTuple):
    """Metrics per category, for objects of all sizes and at most 100 detections of the category per image."""

    ids: tuple[int, ...]  # K category ids, in ascending order
    names: tuple[str, ...]  # distinct names; the id as text if the ground truth has no name
    objects: np.ndarray  # int64 [K], number of objects, excluding crowds
    thresholds: np.ndarray  # float64 [T], IoU thresholds
    recalls: np.ndarray  # float64 [R], recall thresholds
    precision: np.ndarray  # float64 [T, R, K], maximum at each recall or higher; -1 for a category without objects
    recall: np.ndarray  # float64 [T, K], maximum recall; -1 for a category without objects

    @classmethod
    def of(cls, evaluation: Any) -> "CategoryScores":
        """Extracts the metrics from a pycocotools `COCOeval` after `accumulate`."""
        params = evaluation.params
        curves = evaluation.eval
        truth = evaluation.cocoGt
        scored = set(params.imgIds)
        there = [a for a in truth.dataset["annotations"] if a["image_id"] in scored and not a["iscrowd"]]
        labels = np.array([a["category_id"] for a in there], np.int64)
        ids = tuple(int(i) for i in params.catIds)
        named = {c["id"]: c.get("name") for c in truth.dataset["categories"]}
        names = distinct({i: str(i if named[i] is None else named[i]) for i in ids})
        return cls(
            ids,
            tuple(names[i] for i in ids),
            np.array([(labels == i).sum() for i in ids], np.int64),
            np.array(params.iouThrs),
            np.array(params.recThrs),
            curves["precision"][..., params.areaRngLbl.index("all"), -1],
            curves["recall"][..., params.areaRngLbl.index("all"), -1],
        )

    def table(self) -> dict[str, np.ndarray]:
        """The metrics in `COLUMNS`, each float64 `[K]`; -1 for a category without objects."""
        at = {iou: int(np.argmin(np.abs(self.thresholds - iou))) for iou in (0.5, 0.75)}
        curves = self.precision.mean(1)
        values = curves.mean(0), curves[at[0.5]], curves[at[0.75]], self.recall.mean(0), self.recall[at[0.5]]
        return dict(zip(COLUMNS, values))

    def curve(self, iou: float) -> np.ndarray:
        """The precision at each recall, float64 `[R, K]`; NaN for a category without objects."""
        precision = self.precision[int(np.argmin(np.abs(self.thresholds - iou)))]
        return np.where(precision < 0, np.nan, precision)

    def worst(self, most: int) -> list[tuple[str, float]]:
        """Names and AP of the `most` categories with the lowest AP, among those with objects."""
        values = self.table()["AP"]
        scored = [(name, float(value)) for name, value, n in zip(self.names, values, self.objects) if n]
        return sorted(scored, key=lambda each: each[1])[:most]

    def scalars(self) -> dict[str, float]:
        """AP, AP50 and AR of every category with objects, with valid TensorBoard tags as keys."""
        values = self.table()
        tags = distinct({i: re.sub(r"[^-.0-9A-Za-z]+", "_", name) for i, name in enumerate(self.names)})
        return {
            f"{column}/{tag.replace(' (', '_').rstrip(')')}": float(values[column][i])
            for column in ("AP", "AP50", "AR")
            for i, tag in tags.items()
            if self.objects[i]
        }

    def text(self) -> str:
        """A table with one line per category, ordered by id."""
        names = [on_one_line(name) for name in self.names]
        width = max(5, *map(len, names)) if names else 5
        values = self.table()
        head = f"{'class':<{width}}  {'objects':>7}" + "".join(f"  {name:>8}" for name in COLUMNS)
        rows = [
            f"{name:<{width}}  {self.objects[i]:>7}" + "".join(f"  {_number(values[c][i]):>8}" for c in COLUMNS)
            for i, name in enumerate(names)
        ]
        return "\n".join([head, *rows])


def _number(value: float) -> str:
    return "-" if value < 0 else f"{value:.4f}"
