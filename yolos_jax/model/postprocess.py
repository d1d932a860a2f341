"""From the network's outputs to scored boxes in an image's own pixels."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from yolos_jax.errors import InputError
from yolos_jax.model.boxes import cxcywh_to_xyxy


def postprocess(logits: jax.Array, boxes: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The reference's: every query's best class, "no object" left aside.

    Nothing is thresholded, sorted, suppressed or clipped, and a label may be an id that the data set does not use.

    Args:
      logits: `[B, Q, K + 1]`.
      boxes: `[B, Q, 4]` cxcywh in 0..1.
      size: `[B, 2]` (width, height) of the original images in pixels.

    Returns:
      scores float32 `[B, Q]`, labels int32 `[B, Q]`, boxes float32 `[B, Q, 4]` absolute xyxy.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)[..., :-1]
    scale = jnp.tile(size.astype(jnp.float32), 2)[:, None]
    return probabilities.max(-1), probabilities.argmax(-1).astype(jnp.int32), cxcywh_to_xyxy(boxes) * scale


def check_nms(value: Any) -> None:
    """`InputError` for an IoU to suppress from that is neither a number within 0..1 nor None."""
    if value is not None and not (isinstance(value, numbers.Real) and 0 <= float(value) <= 1):
        raise InputError(f"nms is {value!r:.80}; it must be a number within 0..1, or None for no suppression.")


def suppressed(scores: np.ndarray, labels: np.ndarray, boxes: np.ndarray, nms: float | None) -> np.ndarray:
    """Greedy non-maximum suppression within each class: the indices of the detections that stay, best first.

    A detection goes if it overlaps a better one that stays by an IoU above `nms`. Of equal scores, the first is the
    better one. Without `nms`, all stay.

    Args:
      scores, labels: `[n]`.
      boxes: `[n, 4]` xyxy.
    """
    order = np.argsort(-scores, kind="stable")
    if nms is None:
        return order
    boxes, labels = boxes[order].astype(np.float64), labels[order]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    stays = np.ones(len(order), bool)
    for i in range(len(order)):
        if not stays[i]:
            continue
        corner = np.maximum(boxes[i, :2], boxes[i + 1 :, :2])
        inner = np.maximum(np.minimum(boxes[i, 2:], boxes[i + 1 :, 2:]) - corner, 0)
        overlap = inner[:, 0] * inner[:, 1]
        union = area[i] + area[i + 1 :] - overlap
        stays[i + 1 :] &= (overlap <= nms * union) | (labels[i + 1 :] != labels[i])
    return order[stays]
