"""Checks boxes, converts them to COCO format, and detects boxes in other formats."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from yolos_jax.datasets.annotations import Content
from yolos_jax.errors import shown

_FAR, _LITTLE = 0.05, 0.01  # how far a box extends beyond the image, as a fraction of the image's width or height
_CORNERS, _MOST = 0.1, 0.5  # fraction of boxes far outside their images that suggests corners, or any wrong format
_SURELY = 0.98  # fraction of boxes that must be valid as corners
_FEW_CORNERS, _FEW_BOXES = 4, 8  # minimum number of boxes for a decision
_ROUNDING = 0.02  # tolerance in pixels
_COCO = "COCO boxes are [x, y, width, height] in pixels"


def wrong_box(annotation: dict, origin: str, categories: dict[int, Any]) -> str | None:
    """Returns a message if an annotation has invalid values, or None; `categories` maps ids to names."""
    where = f"annotation id {shown(annotation.get('id'))} of image id {annotation['image_id']} in {origin}"
    box = annotation.get("bbox")
    category = annotation.get("category_id")
    area = annotation.get("area")
    if not isinstance(box, list) or len(box) != 4 or not all(is_number(v) for v in box):
        return f"{where} has the box {shown(box)}; it must be 4 finite numbers [x, y, width, height]."
    if box[2] < 0 or box[3] < 0:
        return f"{where} has the box {box} with a negative width or height; repair or remove it."
    if area is not None and (not is_number(area) or area < 0):
        return f"{where} has the area {shown(area)}; it must be a finite number of at least 0."
    if annotation.get("iscrowd") not in (None, 0, 1):
        return f"{where} has iscrowd {shown(annotation['iscrowd'])}; it must be 0 or 1."
    if type(category) is not int or category not in categories:
        return f"{where} has the category id {shown(category)}, which is not in the list of categories."
    return None


def is_number(value: Any) -> bool:
    """Whether a value is a number that is finite in float32."""
    return not isinstance(value, bool) and isinstance(value, int | float) and abs(value) < 1e30


def to_coco(content: Content, boxes: str, keep_areas: bool = False) -> None:
    """Converts boxes in place to the COCO format, [x, y, width, height] in pixels.

    Relative boxes are scaled by the image's width and height. Each annotation's area is set to the area of its box;
    with `keep_areas`, only missing areas are set. Invalid boxes and boxes of unlisted images are left unchanged and
    reported later.
    """
    if boxes == "xywh":
        return
    sizes = {i["id"]: (i.get("width"), i.get("height")) for i in content["images"]}
    for annotation in content["annotations"]:
        box, sides = annotation.get("bbox"), sizes.get(annotation.get("image_id"), ())
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, [*box, *sides])) or not sides:
            continue
        a, b, c, d = box
        if boxes.startswith("xyxy"):
            c, d = c - a, d - b
        elif boxes.startswith("cxcywh"):
            a, b = a - c / 2, b - d / 2
        if boxes.endswith("_shares"):
            a = a * sides[0]
            b = b * sides[1]
            c = c * sides[0]
            d = d * sides[1]
        annotation["bbox"] = [a, b, c, d]
        if not (keep_areas and "area" in annotation):
            annotation["area"] = max(c, 0) * max(d, 0)


def clip_to_image(bbox: list[float], image: Mapping[str, Any]) -> np.ndarray:
    """Converts an xywh box to float32 xyxy, clipped to the image. Casts before adding, because the reference does."""
    x, y, w, h = np.array(bbox, np.float32)
    limit = np.array([image["width"], image["height"]] * 2, np.float32)
    return np.clip(np.array([x, y, x + w, y + h], np.float32), 0, limit)


def count_clipped(xywh: np.ndarray, sizes: np.ndarray) -> int:
    """Returns the number of boxes that extend beyond their images by more than rounding errors.

    Boxes entirely outside their images are included.

    Args:
      xywh: boxes, float64 [n, 4].
      sizes: (width, height) of the image of each box, [n, 2].
    """
    low, high = xywh[:, :2], xywh[:, :2] + xywh[:, 2:]
    return int(((low < -_ROUNDING) | (high > sizes + _ROUNDING)).any(1).sum())


def wrong_format(xywh: np.ndarray, sizes: np.ndarray, origin: str, setting: str) -> str | None:
    """Returns a message if the boxes of `origin` are not in COCO format, with the setting that fixes it, or None.

    Args:
      xywh, sizes: as for `count_clipped`, without crowds.
    """
    n = len(xywh)
    if n and xywh.max() > 0 and xywh.min() >= 0 and xywh.max() <= 1 and (sizes > 2).all():
        some = ", ".join(f"{v:.4g}" for v in xywh[xywh.max(1).argmax()])
        return (
            f"all {n} boxes in {origin} are between 0 and 1 (for example [{some}]): they are relative to the image "
            f"size, but {_COCO}. Set {setting}=xywh_shares (or cxcywh_shares or xyxy_shares, depending on the format), "
            "or multiply them by the image size."
        )
    low, high = xywh[:, :2], xywh[:, :2] + xywh[:, 2:]
    far = np.maximum(-low / sizes, high / sizes - 1).max(1, initial=0) > _FAR
    share = far.mean() if n else 0.0
    where = f"{far.sum()} of the {n} boxes in {origin} are far outside their images"
    if n >= _FEW_CORNERS and share >= _CORNERS and _may_be_corners(xywh, sizes):
        return f"{where}, but are valid as corners [x1, y1, x2, y2]; {_COCO}. Set {setting}=xyxy."
    if n >= _FEW_BOXES and share > _MOST:
        return (
            f"{where}: they may be given as corners (set {setting}=xyxy) or centres, or refer to images of a "
            f"different size; {_COCO}."
        )
    return None


def _may_be_corners(corners: np.ndarray, sizes: np.ndarray) -> bool:
    room = sizes * (1 + _LITTLE) + 1
    ordered = (corners[:, 2:] >= corners[:, :2]) & (corners[:, 2:] <= room)
    return bool(ordered.all(1).mean() >= _SURELY)


def nothing_to_find(dropped: Mapping[str, int], boxes: int, origin: str) -> str | None:
    """Returns the reason why `origin` has no usable boxes, or None if it has some.

    Args:
      dropped: number of unusable boxes for each reason.
      boxes: number of usable boxes.
    """
    if boxes:
        return None
    crowds, empty = dropped["crowd"], dropped["empty"]
    if crowds and not empty:
        return (
            f"all {crowds} annotations in {origin} are crowds (iscrowd 1), which are groups rather than single "
            "objects; some programs write iscrowd 1 for every mask; if this is the case, set it to 0 in the file"
        )
    if crowds or empty:
        return f"{origin} has no usable boxes: {crowds} are crowds and {empty} are empty or outside their image"
    return f"{origin} has no usable boxes: it lists no annotations for the images in use"
