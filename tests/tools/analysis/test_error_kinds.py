"""Tests errors by kind, confusion and calibration on hand-made cases and against the TIDE authors' program."""

import numpy as np
import pytest
from made_detections import entry, example, hand_made, noisy
from pycocotools import mask

from yolos_jax.evaluation.coco_metrics import coco_metrics
from yolos_jax.tools.analysis.calibration import calibration
from yolos_jax.tools.analysis.confusion import confusion_matrix
from yolos_jax.tools.analysis.error_kinds import KINDS, count_errors, errors_of
from yolos_jax.tools.analysis.matched_images import matched_images


def test_every_kind_of_error():
    truth, results = hand_made()
    (case,) = matched_images(truth, results)
    errors = errors_of(case)
    kinds = ["right" if k < 0 else KINDS[k] for k in errors.kinds]
    assert kinds == ["right", "duplicate", "location", "class", "both", "background", "right"]
    assert case.ignored.tolist() == [False] * 6 + [True]
    assert errors.missed.tolist() == [False, False, True, False]  # the object of class 7 is the target of an error
    found = count_errors([case], 2, threshold=0.65)
    assert dict(zip(KINDS, found.counts.tolist())) == dict.fromkeys(KINDS, 1)
    above = {"location": 1, "class": 0, "duplicate": 1, "background": 0, "both": 0, "missed": 1}
    assert dict(zip(KINDS, found.above.tolist())) == above
    # Half of class 3 is found before the first error (51 of 101 recalls), and class 7 once the location is corrected.
    now = 51 / 101 / 2
    assert found.ap50 == pytest.approx(now)
    costs = {"location": 0.5, "class": 0, "duplicate": 0, "background": 0, "both": 0, "missed": 0.5 - now}
    assert dict(zip(KINDS, found.costs)) == pytest.approx(costs)


def test_cost_of_a_false_positive():
    """A wrong detection with a higher score than the correct one halves the precision."""
    truth, results = hand_made()
    for wrong, kind in ((1, "background"), (2, "both")):
        before = {**results[wrong], "category_id": 3, "score": 0.95}
        found = count_errors(matched_images(truth, [before, results[6]]), 2)
        gained = dict(zip(KINDS, found.costs))
        assert found.ap50 == pytest.approx(51 / 101 / 4)
        assert gained[kind] == pytest.approx(51 / 101 / 4) and gained["location"] == 0


def without_crowds(truth):
    return truth | {"annotations": [a for a in truth["annotations"] if not a["iscrowd"]]}


# tidecv 1.0.1 on the same detections; it interpolates precision slightly differently from pycocotools.
PUBLISHED = {
    "as published": (69.708274, [1, 74, 1, 0, 0, 106], [0.247425, 15.568780, 0.020599, 0, 0, 10.558773]),
    "noisy": (
        26.721891,
        [376, 232, 192, 991, 270, 119],
        [3.889467, 7.519586, 0.613770, 12.435069, 4.513103, 3.653016],
    ),
}


@pytest.mark.parametrize("which", PUBLISHED)
def test_matches_tidecv(which):
    truth, results = example()
    results = noisy(truth, results) if which == "noisy" else results
    there = {a["category_id"] for a in truth["annotations"] if not a["iscrowd"]}
    truth, results = without_crowds(truth), [r for r in results if r["category_id"] in there]
    found = count_errors(matched_images(truth, results), len(truth["categories"]))
    ap50, counts, costs = PUBLISHED[which]
    assert found.counts.tolist() == counts
    np.testing.assert_allclose(100 * found.ap50, ap50, atol=0.02)
    np.testing.assert_allclose(100 * found.costs, costs, atol=0.02)
    assert found.ap50 == pytest.approx(coco_metrics(truth, results)["AP50"], abs=1e-12)


def test_confusion_on_a_small_example():
    truth, results = hand_made()
    found = confusion_matrix(matched_images(truth, results), 2, threshold=0.45)
    # Rows: three, seven, background. The errors "location" and "both" overlap too little to be paired.
    assert found.tolist() == [[1, 0, 1], [1, 0, 0], [2, 1, 0]]
    crowded = confusion_matrix(matched_images(truth, results), 2, threshold=0.0)
    assert crowded[2].tolist() == [2, 2, 0]  # one more detection of background; the one in the crowd is ignored
    equal = [entry(5, 3, [50, 50, 20, 20], 0.9), entry(5, 7, [50, 50, 20, 20], 0.6)]
    matrix = confusion_matrix(matched_images(truth, equal), 2)
    assert matrix[1].tolist() == [0, 1, 0]  # matched to its class, regardless of scores


def test_confusion_of_the_published_example():
    """Compares with a brute-force search for the largest overlaps; pycocotools computes the overlaps."""
    truth, results = example()
    results = noisy(truth, results)
    ids = sorted(c["id"] for c in truth["categories"])
    want = np.zeros((len(ids) + 1,) * 2, int)
    for image in truth["images"]:
        real = [a for a in truth["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
        crowds = [a for a in truth["annotations"] if a["image_id"] == image["id"] and a["iscrowd"]]
        shown = [r for r in results if r["image_id"] == image["id"] and r["score"] >= 0.3]
        boxes = [r["bbox"] for r in shown]
        overlaps = np.array(mask.iou(boxes, [a["bbox"] for a in real], [0] * len(real))).reshape(len(shown), len(real))
        inside = np.array(mask.iou(boxes, [a["bbox"] for a in crowds], [1] * len(crowds)))
        inside = inside.reshape(len(shown), len(crowds))
        while overlaps.size and overlaps.max() >= 0.5:
            row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
            want[ids.index(real[column]["category_id"]), ids.index(shown[row]["category_id"])] += 1
            overlaps[row], overlaps[:, column] = -1, -1
            shown[row], real[column] = None, None
        for i, result in enumerate(shown):
            same = [result is not None and a["category_id"] == result["category_id"] for a in crowds]
            if result is not None and not (inside[i] >= 0.5)[same].any():
                want[-1, ids.index(result["category_id"])] += 1
        for annotation in filter(None, real):
            want[ids.index(annotation["category_id"]), -1] += 1
    found = confusion_matrix(matched_images(truth, results), len(ids), 0.3)
    assert want[:-1, :-1].trace() > 300 and want.sum() > 1000
    np.testing.assert_array_equal(found, want)


def test_calibration():
    truth, _ = hand_made()
    # Two of three detections in a bin of mean score 0.76 are correct; one in another bin is wrong; one is in a crowd.
    results = [
        entry(5, 3, [0, 0, 20, 20], 0.77),
        entry(5, 3, [0, 80, 10, 10], 0.76),
        entry(5, 3, [0, 0, 20, 20], 0.75),
        entry(5, 7, [80, 0, 10, 10], 0.2),
        entry(5, 7, [76, 76, 10, 10], 0.9),
    ]
    found = calibration(matched_images(truth, results))
    assert found.right.sum() == 2 and found.right[15] == 2 and found.wrong[15] == 1 and found.wrong[4] == 1
    assert found.ece() == pytest.approx((3 * (0.76 - 2 / 3) + 0.2) / 4)
    assert found.ece(0.5) == pytest.approx(0.76 - 2 / 3) and np.isnan(found.ece(0.95))
    truth, results = example()
    cases = list(matched_images(truth, noisy(truth, results)))
    scores = np.concatenate([c.scores[~c.ignored] for c in cases])
    right = np.concatenate([c.right[~c.ignored] for c in cases])
    bins, want = np.minimum(np.floor(scores / 0.05 + 1e-12), 19), 0.0
    for number in range(20):
        if (bins == number).any():
            mine = bins == number
            want += abs(scores[mine].mean() - right[mine].mean()) * mine.mean()
    assert calibration(cases).ece() == pytest.approx(want, abs=1e-9)
