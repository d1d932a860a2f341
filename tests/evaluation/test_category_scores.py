"""Compares metrics per class, and correct and ignored detections, with pycocotools."""

import contextlib
import io

import numpy as np
import pytest
from made_detections import entry, example, hand_made, noisy
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolos_jax.evaluation.coco_metrics import coco_metrics, scored
from yolos_jax.tools.analysis.matched_images import matched_images


def evaluation(truth, results, category=None):
    """A `COCOeval` of all classes or of one, created directly with pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = {"info": {}, **truth}
        index.createIndex()
        found = COCOeval(index, index.loadRes([dict(r) for r in results]), "bbox")
        if category is not None:
            found.params.catIds = [category]
        found.evaluate()
        found.accumulate()
        found.summarize()
    return found


def test_scores_per_class_match_pycocotools():
    truth, results = example()
    metrics, classes = scored(truth, results)
    table = classes.table()
    assert metrics == coco_metrics(truth, results)
    there = classes.objects > 0
    for name in ("AP", "AP50", "AP75"):
        assert np.mean(table[name][there]) == pytest.approx(metrics[name], abs=1e-12)
    assert np.mean(table["AR"][there]) == pytest.approx(metrics["AR100"], abs=1e-12)
    for k in [*np.flatnonzero(there)[::5], np.flatnonzero(~there)[0]]:
        own = evaluation(truth, results, classes.ids[k]).stats
        found = [table[name][k] for name in ("AP", "AP50", "AP75", "AR")]
        np.testing.assert_allclose(found, [own[0], own[1], own[2], own[8]], atol=1e-12)
    real = [a["category_id"] for a in truth["annotations"] if not a["iscrowd"]]
    assert classes.objects.tolist() == [real.count(i) for i in classes.ids]


def test_names_and_scalars():
    truth, results = hand_made()
    truth["categories"].append({"id": 4, "name": "no such/thing"})
    classes = scored(truth, results)[1]
    assert classes.ids == (3, 4, 7) and classes.names == ("three", "no such/thing", "seven")
    assert classes.scalars() == {
        "AP/three": pytest.approx(51 / 101),
        "AP/seven": 0.0,
        "AP50/three": pytest.approx(51 / 101),
        "AP50/seven": 0.0,
        "AR/three": 0.5,
        "AR/seven": 0.0,
    }
    lines = classes.text().splitlines()
    assert lines[1].split() == ["three", "2", *["0.5050"] * 3, "0.5000", "0.5000"]
    assert lines[2].split() == ["no", "such/thing", "0", *["-"] * 5]
    assert np.isnan(classes.curve(0.5)[:, 1]).all() and classes.curve(0.5)[50:52, 0] == pytest.approx([1, 0])


def test_correct_and_ignored_detections_match_pycocotools():
    truth, results = example()
    results = noisy(truth, results)
    own = []
    for group in evaluation(truth, results).evalImgs:
        if group is not None and group["aRng"] == [0, 1e10]:
            ignored, hit = group["dtIgnore"][0], group["dtMatches"][0] > 0
            own += [
                (group["image_id"], group["category_id"], s, bool(h and not i), bool(i))
                for s, h, i in zip(group["dtScores"], hit, ignored)
            ]
    ids = sorted(c["id"] for c in truth["categories"])
    found = [
        (case.image_id, ids[label], score, bool(right), bool(ignored))
        for case in matched_images(truth, results)
        for label, score, right, ignored in zip(case.labels, case.scores, case.right, case.ignored)
    ]
    assert sum(right for *_, right, _ in own) > 300 and sum(ignored for *_, ignored in own) > 10
    assert sorted(found) == sorted(own)


def test_limits_detections_and_ignores_unknown_categories():
    truth, _ = hand_made()
    results = [entry(5, 3, [0, 0, 20, 20], 0.5 - i / 1000) for i in range(120)] + [entry(5, 99, [0, 0, 20, 20], 0.9)]
    (case,) = matched_images(truth, results)
    assert len(case.scores) == 100 and case.scores.min() == pytest.approx(0.401)
    assert case.right.tolist() == [True] + [False] * 99
    (nothing,) = matched_images(truth, [])
    assert nothing.overlaps.shape == (0, 4) and not nothing.found.any()
