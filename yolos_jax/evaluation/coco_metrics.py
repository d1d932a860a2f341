"""The 12 COCO metrics, computed with pycocotools or faster-coco-eval."""

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolos_jax.datasets import voc_metrics
from yolos_jax.errors import InputError
from yolos_jax.evaluation.category_scores import CategoryScores
from yolos_jax.evaluation.settings import PYCOCOTOOLS

ALL = "0.50:0.95"
# Type of metric, IoU thresholds, object sizes, maximum number of detections per image.
MEANING = {
    **{name: ("Average precision", iou, "all", 100) for name, iou in (("AP", ALL), ("AP50", "0.50"), ("AP75", "0.75"))},
    **{f"AP{size[0]}": ("Average precision", ALL, size, 100) for size in ("small", "medium", "large")},
    **{f"AR{most}": ("Average recall", ALL, "all", most) for most in (1, 10, 100)},
    **{f"AR{size[0]}": ("Average recall", ALL, size, 100) for size in ("small", "medium", "large")},
}
NAMES = tuple(MEANING)  # in the order of pycocotools


def to_results(image_id: int, scores: np.ndarray, labels: np.ndarray, boxes: np.ndarray) -> list[dict[str, Any]]:
    """Entries of a COCO results file for the image `image_id`.

    Args:
      scores: float `[n]`, 0..1.
      labels: int `[n]`, category ids.
      boxes: float `[n, 4]`, absolute xyxy in pixels; converted to COCO's xywh.
    """
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return [
        {"image_id": int(image_id), "category_id": int(label), "bbox": [float(v) for v in box], "score": float(score)}
        for score, label, box in zip(scores, labels, xywh)
    ]


def coco_metrics(
    truth: Mapping[str, Any],
    results: Sequence[dict[str, Any]],
    image_ids: Sequence[int] | None = None,
    backend: str = PYCOCOTOOLS,
) -> dict[str, float]:
    """Scores boxes against ground truth.

    Args:
      truth: the content of a COCO annotation file, including crowds.
      results: entries of a COCO results file.
      image_ids: images to score, with or without results; by default all images in the ground truth.
      backend: `"pycocotools"` or `"faster"` (faster-coco-eval), which compute the same values.

    Returns:
      The 12 metrics by name; values are from 0 to 1, or -1 if no object has the size that the metric covers.

    Raises:
      InputError: a result is for an image that is not scored, or the backend is not installed.
    """
    return scored(truth, results, image_ids, backend)[0]


def scored(
    truth: Mapping[str, Any],
    results: Sequence[dict[str, Any]],
    image_ids: Sequence[int] | None = None,
    backend: str = PYCOCOTOOLS,
) -> tuple[dict[str, float], CategoryScores]:
    """The result of `coco_metrics`, and the metrics per category."""
    evaluation = evaluation_of(truth, results, image_ids, kind_of(backend))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(value) for name, value in zip(NAMES, evaluation.stats)}, CategoryScores.of(evaluation)


def kind_of(backend: str) -> Any:
    """The evaluation class of a backend, compatible with `COCOeval`; raises `InputError` if it is not installed."""
    if backend == PYCOCOTOOLS:
        return COCOeval
    try:
        from faster_coco_eval import COCOeval_faster
    except ImportError as error:
        remedy = "install it with pip install 'yolos-jax[faster-eval]', or set eval.backend=pycocotools"
        raise InputError(f"eval.backend={backend} needs faster-coco-eval ({error}); {remedy}.") from error
    return COCOeval_faster


def evaluation_of(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    image_ids: Sequence[int] | None = None,
    kind: Any = COCOeval,
) -> COCOeval:
    """Creates an instance of `kind` (see `kind_of`); for the other arguments and the errors, see `coco_metrics`."""
    index = indexed(truth, image_ids)
    wanted = sorted(index.getImgIds() if image_ids is None else set(image_ids))
    others = {r["image_id"] for r in results} - set(wanted)
    if others:
        raise InputError(f"the results contain image id {min(others)}, which is not in the ground truth.")
    found = COCO()  # used if there are no results, because `loadRes` would fail
    found.dataset = index.dataset | {"annotations": []}
    with contextlib.redirect_stdout(io.StringIO()):
        found.createIndex()
        found = index.loadRes([dict(r) for r in results]) if results else found
        evaluation = kind(index, found, "bbox")
    evaluation.params.imgIds = wanted
    return evaluation


def indexed(content: Mapping[str, Any], image_ids: Sequence[int] | None) -> COCO:
    """Indexes the content of an annotation file for pycocotools, and fills in missing optional fields.

    Annotation ids are renumbered, because pycocotools treats id 0 as "not matched" and merges duplicate ids.
    """
    truth = COCO()
    truth.dataset = {**content, "info": {}, "annotations": []}
    scored = {image["id"] for image in content["images"]} if image_ids is None else set(image_ids)
    for i, annotation in enumerate((a for a in content["annotations"] if a["image_id"] in scored), 1):
        area = annotation.get("area")
        area = annotation["bbox"][2] * annotation["bbox"][3] if area is None else area
        crowd = int(annotation.get("iscrowd") or 0)
        truth.dataset["annotations"].append(annotation | {"id": i, "area": area, "iscrowd": crowd})
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def table(metrics: dict[str, float]) -> str:
    """The 12 metrics as text, one per line, followed by the VOC metrics if present."""
    lines = [
        f"{kind:<17} (IoU {iou:<9} area {area:<6} detections {most:>3})  {name:<5} {metrics[name]:.4f}"
        for name, (kind, iou, area, most) in MEANING.items()
    ]
    own = (f"{name:<10} {metrics[name]:.4f} ({what})" for name, what in voc_metrics.MEANING.items() if name in metrics)
    return "\n".join([*lines, *own])


def write_report(folder: str | Path, metrics: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Writes `metrics.json` and the COCO results file `results.json`."""
    write_metrics(folder, metrics)
    (Path(folder) / "results.json").write_text(json.dumps(results))


def write_metrics(folder: str | Path, metrics: dict[str, Any]) -> None:
    """Writes `metrics.json`."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    (path / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
