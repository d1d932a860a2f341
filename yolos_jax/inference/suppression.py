"""Optional non-maximum suppression; detectors trained with a set loss normally do not need it."""

import numbers
from typing import Any

import numpy as np

from yolos_jax.errors import InputError


def check_nms(value: Any) -> None:
    """Raises `InputError` for an `nms` that is neither None nor between 0 and 1."""
    if value is not None and not (isinstance(value, numbers.Real) and 0 <= float(value) <= 1):
        raise InputError(f"nms is {value!r:.80}; it must be a number between 0 and 1, or None for no suppression.")


def suppressed(scores: np.ndarray, labels: np.ndarray, boxes: np.ndarray, nms: float | None) -> np.ndarray:
    """Greedy non-maximum suppression per class: indices of the kept detections, best first; all if `nms` is None.

    Detections whose IoU with a better one exceeds `nms` are dropped. `scores`, `labels`: `[n]`; `boxes`: `[n, 4]` xyxy.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, labels = boxes[order].astype(np.float64), labels[order]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    stays = np.ones(len(order), bool)
    for i in range(0 if nms is None else len(order)):
        if stays[i]:
            corner = np.maximum(boxes[i, :2], boxes[i + 1 :, :2])
            overlap = (np.minimum(boxes[i, 2:], boxes[i + 1 :, 2:]) - corner).clip(0).prod(1)
            union = area[i] + area[i + 1 :] - overlap
            stays[i + 1 :] &= (overlap <= nms * union) | (labels[i + 1 :] != labels[i])
    return order[stays]
