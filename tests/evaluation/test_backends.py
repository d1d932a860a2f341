"""Compares the metrics of faster-coco-eval with those of pycocotools."""

import sys

import numpy as np
import pytest
from made_detections import example, hand_made, noisy

from benchmarks.scoring import made
from yolos_jax.errors import InputError
from yolos_jax.evaluation.coco_metrics import scored


def with_ties(truth, results):
    """Rounds scores to create ties; adds crowds, a category without objects, and an image without objects."""
    annotations = [a | {"iscrowd": int(i % 7 == 0)} for i, a in enumerate(truth["annotations"])]
    image = truth["images"][0] | {"id": 10**7}
    changed = {"categories": [*truth["categories"], {"id": 1000, "name": "none"}], "images": [*truth["images"], image]}
    return truth | changed | {"annotations": annotations}, [r | {"score": round(r["score"], 1)} for r in results]


CASES = ["every kind of error", "many", "ties", "nothing found", "some images", "published"]


def made_case(case):
    """Ground truth, results and images to score."""
    if case == "published":
        return *example(), None
    truth, results = made(15)
    match case:
        case "every kind of error":
            return *hand_made(), None
        case "ties":
            return *with_ties(truth, noisy(truth, results)), None
        case "nothing found":
            return truth, [], None
        case "some images":
            some = list(range(1, 16, 2))
            return truth, [r for r in results if r["image_id"] in some], some
    return truth, results, None


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES)
def test_backends_compute_the_same_metrics(case):
    pytest.importorskip("faster_coco_eval")
    (numbers, categories), (others, of_others) = (scored(*made_case(case), name) for name in ("pycocotools", "faster"))
    assert numbers.keys() == others.keys() and len(numbers) == 12
    np.testing.assert_allclose(list(numbers.values()), list(others.values()), rtol=0, atol=1e-12)
    for one, other in zip(categories, of_others):
        if isinstance(one, tuple):
            assert one == other
        else:
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def test_error_without_faster_coco_eval(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(InputError, match=r"eval\.backend=faster needs .*pip install 'yolos-jax\[faster-eval\]'"):
        scored(*hand_made(), backend="faster")
