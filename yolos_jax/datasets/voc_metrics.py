"""Pascal VOC metrics: mAP at IoU 0.5, from 11 recall points (2007) or the area under the curve (since 2010).

Follows the documentation of the VOC development kit. Each detection is assigned to the object of its class with the
highest IoU. For each object, the first detection with an IoU of at least 0.5 is a true positive and later ones are
false positives. Detections of difficult objects are ignored.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

OVERLAP = 0.5
POINTS, AREA = "VOC07_AP50", "VOC_AP50"
MEANING = {POINTS: "11 recall points, VOC 2007", AREA: "area under the curve, VOC since 2010"}


def voc_metrics(
    truth: Mapping[str, Any], results: Sequence[dict[str, Any]], image_ids: Sequence[int] | None = None
) -> dict[str, float]:
    """Computes the VOC metrics of detected boxes.

    Args:
      truth: the content of a COCO annotation file, whose annotations may be marked `difficult`.
      results: entries of a COCO results file; detections with equal scores keep their order.
      image_ids: images to score; by default all images of the ground truth.

    Returns:
      Values in 0..1 under the keys `POINTS` and `AREA`: the mean over all classes with at least one object that is not
      difficult, or -1 if there is no such class.
    """
    scored = {image["id"] for image in truth["images"]} if image_ids is None else set(image_ids)
    objects: dict[Any, dict[Any, list]] = defaultdict(lambda: defaultdict(list))
    found: dict[Any, list] = defaultdict(list)
    for annotation in truth["annotations"]:
        if annotation["image_id"] in scored:
            objects[annotation["category_id"]][annotation["image_id"]].append(annotation)
    for result in results:
        if result["image_id"] in scored:
            found[result["category_id"]].append(result)
    averages = []
    for category, of_image in objects.items():
        wanted = sum(not is_difficult(a) for group in of_image.values() for a in group)
        if wanted:
            averages.append(average_precisions(*_curve(found[category], of_image, wanted)))
    means = np.mean(averages, axis=0).tolist() if averages else [-1.0, -1.0]
    return dict(zip((POINTS, AREA), means))


def is_difficult(annotation: Mapping[str, Any]) -> bool:
    return bool(annotation.get("difficult"))


def average_precisions(recall: np.ndarray, precision: np.ndarray) -> tuple[float, float]:
    """Returns the average precision at 11 recall points and as the area under the curve; see `_curve` for inputs."""
    best = np.maximum.accumulate(precision[::-1])[::-1]  # maximum precision at this or a higher recall
    # Divides by 10 to get exact tenths, because 0.1 * 3 is slightly more than 0.3.
    starts = np.searchsorted(recall, np.arange(11) / 10, side="left")
    points = np.append(best, 0.0)[starts].mean()
    return float(points), float((np.diff(recall, prepend=0.0) * best).sum())


def _curve(results: list[dict[str, Any]], objects: dict[Any, list], wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns recall and precision `[n]` after each detection, by descending score; ignores difficult objects."""
    boxes = {image_id: corners([a["bbox"] for a in group]) for image_id, group in objects.items()}
    taken = {image_id: np.zeros(len(group), bool) for image_id, group in objects.items()}
    order = np.argsort([-r["score"] for r in results], kind="stable")
    right: list[bool] = []
    for result in (results[i] for i in order):
        image_id, hit = result["image_id"], False
        if image_id in boxes:
            overlaps = overlaps_with(corners([result["bbox"]]), boxes[image_id])[0]
            nearest = int(overlaps.argmax())
            if overlaps[nearest] >= OVERLAP:
                if is_difficult(objects[image_id][nearest]):
                    continue
                hit = not taken[image_id][nearest]
                taken[image_id][nearest] = True
        right.append(hit)
    hits = np.cumsum(right, dtype=np.float64)
    return hits / wanted, hits / np.arange(1, len(right) + 1)


def corners(boxes: Sequence[Sequence[float]]) -> np.ndarray:
    """Converts xywh boxes to corners, float64 `[n, 4]`."""
    x, y, w, h = np.array(boxes, np.float64).reshape(-1, 4).T
    return np.stack([x, y, x + w, y + h], axis=1)


def overlaps_with(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray | bool = False) -> np.ndarray:
    """Returns the IoU of each pair of boxes given as corners, float64 `[n, m]`.

    For a crowd, the intersection is divided by the area of the first box. The VOC development kit uses inclusive pixel
    coordinates, counted from 1, which give the same result.
    """
    sides = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
    both = sides.clip(0).prod(-1)
    own, of_others = ((b[:, 2:] - b[:, :2]).prod(-1) for b in (boxes, others))
    union = np.where(crowd, own[:, None], own[:, None] + of_others - both)
    return both / np.maximum(union, np.finfo(np.float64).tiny)
