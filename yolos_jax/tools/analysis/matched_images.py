"""Truth and detections of one image at a time, as arrays, and which belong together as COCO counts."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from yolos_jax.datasets.voc_metrics import corners
from yolos_jax.evaluation.coco_metrics import indexed

FOREGROUND = 0.5  # IoU from which a detection has found an object
MOST = 100  # detections of a category in an image, as in COCO's AP


class MatchedImage(NamedTuple):
    """One image. Labels are places among the ground truth's categories, in the order of their ids."""

    image_id: int
    scores: np.ndarray  # float64 [n], best first
    labels: np.ndarray  # int64 [n]
    boxes: np.ndarray  # float64 [n, 4], corners in pixels
    true_labels: np.ndarray  # int64 [m]
    true_boxes: np.ndarray  # float64 [m, 4]
    crowd: np.ndarray  # bool [m]: regions of many objects, in which detections count as neither right nor wrong
    overlaps: np.ndarray  # float64 [n, m]: IoU; with a crowd, the share of the detection inside it
    taken: np.ndarray  # int64 [n]: the object that a detection is counted for, perhaps a crowd; -1 for none

    @property
    def ignored(self) -> np.ndarray:
        """bool `[n]`: detections that are counted for a crowd."""
        return self._counted_for(self.crowd)

    @property
    def right(self) -> np.ndarray:
        """bool `[n]`: detections that found an object of their category which no better one had."""
        return self._counted_for(~self.crowd)

    @property
    def found(self) -> np.ndarray:
        """bool `[m]`: objects that a detection is counted for; False for crowds."""
        found = np.zeros(len(self.crowd), bool)
        found[self.taken[self.taken >= 0]] = True
        return found & ~self.crowd

    def _counted_for(self, objects: np.ndarray) -> np.ndarray:
        return (self.taken >= 0) & np.append(objects, False)[self.taken]


def matched_images(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], image_ids: Sequence[int] | None = None
) -> Iterator[MatchedImage]:
    """Every image to score, in the order of their ids.

    Args:
      truth: the content of a COCO annotation file, crowds included.
      results: entries of a COCO results file; those of categories that the truth does not list count for nothing.
      image_ids: images to score; all of the ground truth by default.
    """
    content = indexed(truth, image_ids).dataset
    ids = sorted({category["id"] for category in truth["categories"]})
    place = {category_id: label for label, category_id in enumerate(ids)}
    objects, found = defaultdict(list), defaultdict(list)
    for annotation in content["annotations"]:
        if annotation["category_id"] in place:
            objects[annotation["image_id"]].append(annotation)
    for result in results:
        if result["category_id"] in place:
            found[result["image_id"]].append(result)
    scored = {image["id"] for image in content["images"]} if image_ids is None else set(image_ids)
    for image_id in sorted(scored):
        # COCO's rule looks at objects before crowds
        crowds_last = sorted(objects[image_id], key=lambda annotation: annotation["iscrowd"])
        yield _matched_image(image_id, crowds_last, found[image_id], place)


def _matched_image(image_id: int, objects: list[Any], results: list[Any], place: dict[int, int]) -> MatchedImage:
    scores = np.array([r["score"] for r in results], np.float64)
    labels = np.array([place[r["category_id"]] for r in results], np.int64)
    order = np.argsort(-scores, kind="stable")
    order = order[_rank(labels[order]) < MOST]
    scores, labels = scores[order], labels[order]
    boxes = corners([results[i]["bbox"] for i in order])
    true_labels = np.array([place[a["category_id"]] for a in objects], np.int64)
    true_boxes = corners([a["bbox"] for a in objects])
    crowd = np.array([a["iscrowd"] for a in objects], bool)
    overlaps = overlaps_with(boxes, true_boxes, crowd)
    taken = matched(np.where(labels[:, None] == true_labels, overlaps, 0.0), crowd)
    return MatchedImage(image_id, scores, labels, boxes, true_labels, true_boxes, crowd, overlaps, taken)


def _rank(labels: np.ndarray) -> np.ndarray:
    """int `[n]`: how many of the same label come before."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return rank


def overlaps_with(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """float64 `[n, m]`, intersection over union of corners; over the first box's area where the other is a crowd."""
    sides = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
    both = sides.clip(0).prod(-1)
    own, of_others = ((b[:, 2:] - b[:, :2]).prod(-1) for b in (boxes, others))
    union = np.where(crowd, own[:, None], own[:, None] + of_others - both)
    return both / np.maximum(union, np.finfo(np.float64).tiny)


def matched(overlaps: np.ndarray, crowd: np.ndarray, at: float = FOREGROUND) -> np.ndarray:
    """int64 `[n]`: which object each detection is counted for, by COCO's rule; -1 for none.

    In the order of their scores, each takes the free object of its category that it overlaps most, if by `at` or more;
    without one, a crowd, which several may take.

    Args:
      overlaps: float64 `[n, m]`, best detections first; 0 where the categories differ.
      crowd: bool `[m]`, crowds last.
    """
    taken = np.full(len(overlaps), -1)
    free = overlaps >= min(at, 1 - 1e-10)
    for i in np.flatnonzero(free.any(1)):
        for kind in (~crowd, crowd):
            choice = np.where(free[i] & kind, overlaps[i], -1.0)[::-1]  # of equal overlaps, the last
            if choice.max() >= 0:
                taken[i] = len(choice) - 1 - choice.argmax()
                break
        if taken[i] >= 0 and not crowd[taken[i]]:
            free[:, taken[i]] = False
    return taken
