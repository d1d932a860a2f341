"""Ground truth and detections per image, as arrays, matched by pycocotools."""

import contextlib
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from yolos_jax.datasets.voc_metrics import corners, overlaps_with
from yolos_jax.evaluation.coco_metrics import evaluation_of

FOREGROUND = 0.5  # smallest IoU of a correct detection
MOST = 100  # maximum number of detections per category and image, as in COCO's AP


class MatchedImage(NamedTuple):
    """One image. Labels are indices of the ground truth's categories, sorted by id."""

    image_id: int
    scores: np.ndarray  # float64 [n], best first
    labels: np.ndarray  # int64 [n]
    boxes: np.ndarray  # float64 [n, 4], corners in pixels
    true_labels: np.ndarray  # int64 [m]
    true_boxes: np.ndarray  # float64 [m, 4]
    crowd: np.ndarray  # bool [m]: regions with many objects, in which detections are ignored
    overlaps: np.ndarray  # float64 [n, m]: IoU; with a crowd, the fraction of the detection inside it
    taken: np.ndarray  # int64 [n]: the object that a detection is matched to, possibly a crowd; -1 for none

    @property
    def ignored(self) -> np.ndarray:
        """bool `[n]`: detections that are matched to a crowd."""
        return self._counted_for(self.crowd)

    @property
    def right(self) -> np.ndarray:
        """bool `[n]`: true positives, which are matched to an object of their category."""
        return self._counted_for(~self.crowd)

    @property
    def found(self) -> np.ndarray:
        """bool `[m]`: objects with a matched detection; False for crowds."""
        found = np.zeros(len(self.crowd), bool)
        found[self.taken[self.taken >= 0]] = True
        return found & ~self.crowd

    def _counted_for(self, objects: np.ndarray) -> np.ndarray:
        return (self.taken >= 0) & np.append(objects, False)[self.taken]


def matched_images(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], image_ids: Sequence[int] | None = None
) -> Iterator[MatchedImage]:
    """Yields every image to score, in the order of image ids.

    Args:
      truth: the content of a COCO annotation file, crowds included.
      results: entries of a COCO results file; entries with categories that the ground truth lacks are ignored.
      image_ids: images to score; by default all images of the ground truth.
    """
    evaluation = evaluation_of(truth, results, image_ids)
    params = evaluation.params
    params.iouThrs = np.array([FOREGROUND])
    params.maxDets = [MOST]
    params.areaRng = params.areaRng[:1]  # objects of any size
    params.areaRngLbl = params.areaRngLbl[:1]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    place = {category_id: label for label, category_id in enumerate(params.catIds)}
    counted_for: dict[int, dict[int, int]] = defaultdict(dict)  # by image: detection id -> object id; 0 for none
    for one in evaluation.evalImgs:
        if one is not None:
            counted_for[one["image_id"]] |= zip(one["dtIds"], one["dtMatches"][0].tolist())
    for image_id in params.imgIds:
        found = sorted(evaluation.cocoDt.loadAnns(list(counted_for[image_id])), key=lambda a: (-a["score"], a["id"]))
        objects = [a for a in evaluation.cocoGt.imgToAnns[image_id] if a["category_id"] in place]
        yield _matched_image(int(image_id), objects, found, counted_for[image_id], place)


def _matched_image(
    image_id: int, objects: list[Any], found: list[Any], counted_for: Mapping[int, int], place: Mapping[int, int]
) -> MatchedImage:
    number = {a["id"]: i for i, a in enumerate(objects)}
    scores = np.array([a["score"] for a in found], np.float64)
    labels = np.array([place[a["category_id"]] for a in found], np.int64)
    boxes = corners([a["bbox"] for a in found])
    true_labels = np.array([place[a["category_id"]] for a in objects], np.int64)
    true_boxes = corners([a["bbox"] for a in objects])
    crowd = np.array([a["iscrowd"] for a in objects], bool)
    overlaps = overlaps_with(boxes, true_boxes, crowd)
    taken = np.array([number.get(counted_for[a["id"]], -1) for a in found], np.int64)
    return MatchedImage(image_id, scores, labels, boxes, true_labels, true_boxes, crowd, overlaps, taken)
