"""Boxes that are not in COCO format are rejected with a suggestion, and read correctly with the suggested setting."""

import numpy as np
import pytest
from made_coco import box, coco_split, make_coco

from yolos_jax.datasets.annotations import stop
from yolos_jax.datasets.box_checks import nothing_to_find
from yolos_jax.errors import InputError

SIZE = (200, 100)
WRITE = {
    "xyxy": lambda x, y, w, h: [x, y, x + w, y + h],
    "xywh_shares": lambda x, y, w, h: [x / 200, y / 100, w / 200, h / 100],
    "xyxy_shares": lambda x, y, w, h: [x / 200, y / 100, (x + w) / 200, (y + h) / 100],
    "cxcywh_shares": lambda x, y, w, h: [(x + w / 2) / 200, (y + h / 2) / 100, w / 200, h / 100],
}


def boxes_of(seed, count=20):
    """Integer xywh boxes inside the image."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, (150, 70), (count, 2))
    side = rng.integers(5, (50, 30), (count, 2))
    return np.concatenate([low, side], 1).tolist()


def source_of(root, listed, complain=stop, **options):
    make_coco(root, [SIZE], "train", [box(i, 1, b) for i, b in enumerate(listed)])
    return coco_split(root, "train", complain=complain, **options)


@pytest.mark.parametrize("written", WRITE)
@pytest.mark.parametrize("seed", range(5))
def test_other_formats_are_rejected_and_read_with_the_setting(tmp_path, written, seed):
    right = boxes_of(seed)
    listed = [WRITE[written](*b) for b in right]
    cause = "valid as corners.*xyxy" if written == "xyxy" else "between 0 and 1.*shares"
    with pytest.raises(InputError, match=cause):
        source_of(tmp_path / "wrong", listed)
    source = source_of(tmp_path / "right", listed, boxes=written)
    expected = np.array(right)
    expected[:, 2:] += expected[:, :2]
    np.testing.assert_allclose(source.examples[0].boxes, expected, atol=1e-4)
    np.testing.assert_allclose(source.examples[0].area, [w * h for _, _, w, h in right], rtol=1e-5)
    truth = [a["bbox"] for a in source.ground_truth()["annotations"]]
    np.testing.assert_allclose(truth, right, atol=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_correct_boxes_are_accepted(tmp_path, seed):
    listed = boxes_of(seed)
    listed[0] = [-30, 20, 260, 90]  # extends beyond the image
    source = source_of(tmp_path, listed)
    assert source.notes == () and source.clipped == 1


def test_boxes_of_larger_images_are_rejected(tmp_path):
    listed = [[3 * v for v in b] for b in boxes_of(0)]
    with pytest.raises(InputError, match="far outside their images.*different size"):
        source_of(tmp_path, listed)


def test_few_boxes_are_not_enough_evidence(tmp_path):
    source = source_of(tmp_path, [[150, 60, 190, 90], [190, 10, 15, 5], [3, 3, 5, 5], [10, 10, 300, 300.0]])
    assert source.clipped == 3 and source.examples.counts.tolist() == [4]


def test_reading_continues_if_complain_returns(tmp_path):
    said = []
    source = source_of(tmp_path, [WRITE["xywh_shares"](*b) for b in boxes_of(0)], said.append)
    assert len(said) == 1 and "data.train_boxes=xywh_shares" in said[0] and len(source.examples) == 1


def test_reason_for_having_no_boxes():
    assert nothing_to_find({"crowd": 5, "empty": 5}, 1, "f") is None
    assert "all 5 annotations in f are crowds" in nothing_to_find({"crowd": 5, "empty": 0}, 0, "f")
    assert "5 are crowds and 2 are empty" in nothing_to_find({"crowd": 5, "empty": 2}, 0, "f")
    assert "lists no annotation" in nothing_to_find({"crowd": 0, "empty": 0}, 0, "f")
