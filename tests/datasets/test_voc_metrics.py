"""VOC metrics on random data, compared with an independent implementation in plain loops."""

import numpy as np
import pytest

from yolos_jax.datasets.voc_metrics import AREA, POINTS, voc_metrics


def overlap(a, b):
    """IoU as defined by VOC, which adds 1 to widths and heights because pixel coordinates are inclusive."""
    ax0, ay0, ax1, ay1 = a[0] + 1, a[1] + 1, a[0] + a[2], a[1] + a[3]
    bx0, by0, bx1, by1 = b[0] + 1, b[1] + 1, b[0] + b[2], b[1] + b[3]
    width, height = min(ax1, bx1) - max(ax0, bx0) + 1, min(ay1, by1) - max(ay0, by0) + 1
    if width <= 0 or height <= 0:
        return 0.0
    whole = (ax1 - ax0 + 1) * (ay1 - ay0 + 1) + (bx1 - bx0 + 1) * (by1 - by0 + 1)
    return width * height / (whole - width * height)


def by_loops(truth, results):
    """(mean AP at 11 recall points, mean AP as area under the curve), computed as in the VOC development kit."""
    points, areas = [], []
    for category in sorted({a["category_id"] for a in truth["annotations"]}):
        mine = [a for a in truth["annotations"] if a["category_id"] == category]
        positives = len([a for a in mine if not a.get("difficult")])
        if positives == 0:
            continue
        ranked = sorted((r for r in results if r["category_id"] == category), key=lambda r: -r["score"])
        used, right, wrong, recall, precision = [], 0, 0, [], []
        for result in ranked:
            best, most = None, -1.0
            for i, one in enumerate(mine):
                if one["image_id"] == result["image_id"] and overlap(result["bbox"], one["bbox"]) > most:
                    best, most = i, overlap(result["bbox"], one["bbox"])
            if most >= 0.5:
                if not mine[best].get("difficult"):
                    if best in used:
                        wrong += 1
                    else:
                        right += 1
                        used.append(best)
            else:
                wrong += 1
            if right + wrong:
                recall.append(right / positives)
                precision.append(right / (right + wrong))
        at = [max([p for r, p in zip(recall, precision) if r >= k / 10], default=0) for k in range(11)]
        points.append(sum(at) / 11)
        area, before = 0.0, 0.0
        for i, r in enumerate(recall):
            if r > before:
                area += (r - before) * max(precision[i:])
                before = r
        areas.append(area)
    return np.mean(points), np.mean(areas)


@pytest.mark.parametrize("seed", range(12))
def test_metrics_equal_plain_loops(seed):
    random = np.random.default_rng(seed)
    truth, results = {"images": [{"id": i} for i in range(6)], "annotations": []}, []
    for image in range(6):
        for _ in range(random.integers(0, 5)):
            box = [int(v) for v in [*random.integers(0, 40, 2), *random.integers(5, 40, 2)]]
            one = {"image_id": image, "category_id": int(random.integers(3)), "bbox": box}
            truth["annotations"].append(one | ({"difficult": 1} if random.random() < 0.3 else {}))
            for _ in range(random.integers(0, 4)):  # detections of this object, which may be difficult
                near = [int(v) for v in np.maximum(1, np.array(box) + random.integers(-4, 5, 4))]
                category = one["category_id"] if random.random() < 0.8 else int(random.integers(3))
                score = float(random.random())
                results.append({"image_id": image, "category_id": category, "bbox": near, "score": score})
    found = voc_metrics(truth, results)
    assert (found[POINTS], found[AREA]) == pytest.approx(by_loops(truth, results), abs=1e-12)
    assert 0.1 < found[AREA] < 1


def test_hand_computed_metrics():
    """Two objects and three detections, the second of which is wrong: precisions 1, 1/2, 2/3 at recalls 1/2, 1/2, 1."""
    boxes = [[0, 0, 10, 10], [20, 20, 10, 10]]
    truth = {"images": [{"id": 1}], "annotations": [{"image_id": 1, "category_id": 0, "bbox": b} for b in boxes]}
    results = [
        {"image_id": 1, "category_id": 0, "bbox": box, "score": score}
        for box, score in ((boxes[0], 0.9), ([40, 40, 5, 5], 0.8), (boxes[1], 0.7))
    ]
    found = voc_metrics(truth, results)
    assert found[AREA] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert found[POINTS] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    truth["annotations"][1]["difficult"] = 1  # neither missing nor detecting a difficult object is an error
    assert voc_metrics(truth, results)[AREA] == 1.0


def test_without_objects():
    annotations = [{"image_id": 1, "category_id": 0, "bbox": [0, 0, 5, 5], "difficult": 1}]
    assert voc_metrics({"images": [{"id": 1}], "annotations": annotations}, []) == {POINTS: -1.0, AREA: -1.0}
