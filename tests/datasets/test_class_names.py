"""Classes with the same names but different numbers are matched by name; other classes are rejected."""

import json

import numpy as np
import pytest
from made_coco import box, coco_split, make_coco

from yolos_jax.datasets.settings import Settled
from yolos_jax.errors import InputError
from yolos_jax.evaluation.coco_metrics import coco_metrics, to_results

CAT, DOG = (100, 20), (40, 40)  # sizes of the boxes


def folder(root, numbers):
    """Writes a COCO folder with an image of a cat and a dog; `numbers` maps names to category ids."""
    listed = [{"id": number, "name": name} for name, number in numbers.items()]
    first, second = list(numbers.values())[:2]
    boxes = [box(1, 1, [5, 5, *CAT], first), box(2, 1, [30, 50, *DOG], second)]
    return make_coco(root, [(120, 100)], "val", boxes, listed)


def perfect(source, label_of):
    """The AP of detections with correct boxes and with the labels in `label_of`."""
    (example,) = source.examples
    wide = example.boxes[:, 2] - example.boxes[:, 0] > 50
    labels = np.where(wide, label_of["cat"], label_of["dog"])
    ids = np.array(source.category_ids)[labels]
    return coco_metrics(source.ground_truth(), to_results(1, np.ones(2), ids, example.boxes))["AP"]


@pytest.mark.parametrize("names, numbers, categories", [
    ({1: "cat", 2: "dog"}, {"dog": 1, "cat": 2}, "raw"),
    ({0: "cat", 1: "dog"}, {"dog": 1, "cat": 2}, "contiguous"),
    ({1: "cat", 2: "dog"}, {"cat": 0, "dog": 1}, "raw"),
    ({1: "cat", 2: "dog"}, {"Dog": 7, "CAT": 90}, "raw"),
    ({0: "N/A", 1: "cat", 2: "dog"}, {"cat": 0, "dog": 1}, "raw"),
])  # fmt: skip
def test_same_names_are_matched(tmp_path, names, numbers, categories):
    if next(iter(numbers)).lower() == "dog":
        numbers = dict(reversed(numbers.items()))
    root, settled = folder(tmp_path, numbers), Settled(label_names=names, by="the checkpoint c")
    source = coco_split(root, "val", max(names) + 1, categories=categories, settled=settled)
    label_of = {name: label for label, name in names.items()}
    assert source.label_names == {label: n for label, name in names.items() for n in numbers if n.lower() == name}
    assert perfect(source, label_of) == pytest.approx(1.0)
    assert len(set(source.category_ids)) == len(source.category_ids) == max(names) + 1
    (note,) = source.notes
    assert "matched by name" in note and "the checkpoint c" in note
    for number in numbers.values():
        assert str(number) in note
    by_ids = {"names": "ids", "settled": Settled(label_names=names)}
    if max(numbers.values()) <= max(names):  # matching by number gives the wrong classes
        assert perfect(coco_split(root, "val", max(names) + 1, categories=categories, **by_ids), label_of) < 0.1


@pytest.mark.parametrize("numbers", [{"cat": 1, "cow": 2}, {"dog": 1, "cat": 2, "cow": 3}, {"cow": 1, "hen": 2}])
def test_other_names_are_rejected_by_default(tmp_path, numbers):
    root, names = folder(tmp_path, numbers), {1: "cat", 2: "dog", 3: "bird"}
    with pytest.raises(InputError) as error:
        coco_split(root, "val", 4, settled=Settled(label_names=names, by="the checkpoint c"))
    for words in ("1 cat, 2 dog, 3 bird", *(f"{i} {n}" for n, i in numbers.items()), "--config.data.names=ids"):
        assert words in str(error.value)
    assert coco_split(root, "val", 4, names="ids", settled=Settled(label_names=names)).notes == ()


@pytest.mark.parametrize("names", [
    {1: "cat", 2: "dog"}, {1: "Cat ", 2: "dog", 3: "bird"}, {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, {}, {1: "cat"}
])  # fmt: skip
def test_missing_names_are_not_a_conflict(tmp_path, names):
    source = coco_split(folder(tmp_path, {"cat": 1, "dog": 2}), "val", 4, settled=Settled(label_names=names))
    assert source.notes == () and source.category_ids == (0, 1, 2, 3)


def test_duplicate_names_are_not_matched(tmp_path):
    root = folder(tmp_path, {"cat": 1, "dog": 2})
    path = root / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    content["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "cat"}]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="cannot be matched"):
        coco_split(root, "val", 4, settled=Settled(label_names={1: "cat", 2: "dog", 3: "dog"}))
