"""Boxes that cannot be meant as COCO's: what is probably wrong, and what helps."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

_FAR, _LITTLE = 0.05, 0.01  # shares of a side that boxes reach out by
_CORNERS, _MOST = 0.1, 0.5  # shares of boxes that reach out far, of corners and of boxes of any kind
_SURELY = 0.98  # share of boxes that must fit as corners
_FEW_CORNERS, _FEW_BOXES = 4, 8  # fewer boxes prove nothing
_ROUNDING = 0.02  # pixels
_COCO = "a box is [x, y, width, height] in pixels in COCO's format"
NOTHING = "has no box"


class Boxes(NamedTuple):
    """The boxes of a data set, crowds left out, with the sizes of their images."""

    xywh: np.ndarray  # float64 [n, 4], pixels
    sizes: np.ndarray  # float64 [n, 2]: (width, height)

    @property
    def beyond(self) -> np.ndarray:
        """float64 [n]: how far each reaches out of its image, as a share of the side."""
        low, high = self.xywh[:, :2], self.xywh[:, :2] + self.xywh[:, 2:]
        return np.maximum(-low / self.sizes, high / self.sizes - 1).max(1, initial=0)


def clipped(boxes: Boxes) -> int:
    """How many reach out of their image, by more than numbers are rounded; some of these have nothing inside."""
    low, high = boxes.xywh[:, :2], boxes.xywh[:, :2] + boxes.xywh[:, 2:]
    return int(((low < -_ROUNDING) | (high > boxes.sizes + _ROUNDING)).any(1).sum())


def implausible(boxes: Boxes, origin: str, setting: str) -> str | None:
    """Why the boxes of `origin` cannot be meant as they are read, with the setting that helps; None if they can."""
    xywh, n = boxes.xywh, len(boxes.xywh)
    if n and xywh.max() > 0 and xywh.min() >= 0 and xywh.max() <= 1 and (boxes.sizes > 2).all():
        some = ", ".join(f"{v:.4g}" for v in xywh[xywh.max(1).argmax()])
        return (
            f"all {n} boxes of {origin} lie within 0..1, such as [{some}]: they are shares of the image's sides, and "
            f"{_COCO}. Set {setting}=xywh_shares (or cxcywh_shares, xyxy_shares, whichever they are), or multiply "
            "them by the sides."
        )
    far = boxes.beyond > _FAR
    share = far.mean() if n else 0.0
    where = f"{far.sum()} of the {n} boxes of {origin} reach far out of their image"
    if n >= _FEW_CORNERS and share >= _CORNERS and _may_be_corners(boxes):
        return f"{where}, and all fit as [x1, y1, x2, y2]: they are corners, and {_COCO}. Set {setting}=xyxy."
    if n >= _FEW_BOXES and share > _MOST:
        return (
            f"{where}: they may be corners or centres ({setting}=xyxy says the first), or belong to images of another "
            f"size; {_COCO}."
        )
    return None


def _may_be_corners(boxes: Boxes) -> bool:
    corners, room = boxes.xywh, boxes.sizes * (1 + _LITTLE) + 1
    ordered = (corners[:, 2:] >= corners[:, :2]) & (corners[:, 2:] <= room)
    return bool(ordered.all(1).mean() >= _SURELY)


def nothing_to_find(dropped: Mapping[str, int], boxes: int, origin: str) -> str | None:
    """Why there is no box in `origin`, of which `boxes` are usable and `dropped` are not; None if there are some."""
    if boxes:
        return None
    crowds, empty = dropped["crowd"], dropped["empty"]
    if crowds and not empty:
        return (
            f"every one of the {crowds} annotations of {origin} is a crowd (iscrowd 1), which stands for a group that "
            "no box is asked of; some programs write it for every mask: set iscrowd to 0 in the file"
        )
    if crowds or empty:
        return f"{origin} {NOTHING} to find: {crowds} are crowds and {empty} are empty or outside of their image"
    return f"{origin} {NOTHING} to find: it lists no annotation of the images that are used"
