"""The mapping from category ids to labels, as determined by a data set or a model."""

import pytest
from made_coco import box, coco_split, make_coco

from yolos_jax.errors import InputError

LISTED = {"categories": [{"id": 7, "name": "seven"}, {"id": 1, "name": "one"}, {"id": 4, "name": "four"}]}


@pytest.mark.parametrize(
    "arguments, num_classes, label_names, labels",
    [
        ({}, 8, {1: "one", 4: "four", 7: "seven"}, [7, 1]),
        ({"num_classes": 91}, 91, {1: "one", 4: "four", 7: "seven"}, [7, 1]),
        ({"categories": "contiguous"}, 3, {0: "one", 1: "four", 2: "seven"}, [2, 0]),
        ({"category_ids": (7, 1, 4)}, 3, {0: "seven", 1: "one", 2: "four"}, [0, 1]),
        ({"category_ids": (9, 7, 1), "num_classes": 3}, 3, {1: "seven", 2: "one"}, [1, 2]),
    ],
    ids=["raw", "raw_more", "contiguous", "model_categories", "model_categories_without_one"],
)
def test_labels_of_category_ids(tmp_path, arguments, num_classes, label_names, labels):
    annotations = [box(1, 1, [1, 1, 5, 5], category=7), box(2, 1, [2, 2, 5, 5], category=1)]
    root = make_coco(tmp_path, [(64, 48)], annotations=annotations, **LISTED)
    source = coco_split(root, "train2017", **arguments)
    assert source.num_classes == num_classes == len(source.category_ids)
    assert source.label_names == label_names
    assert source.examples[0].labels.tolist() == source.examples.labels.tolist() == labels
    assert [source.category_ids[label] for label in labels] == [7, 1]


def test_categories_that_the_model_lacks(tmp_path):
    annotations = [box(1, 1, [1, 1, 5, 5]), box(2, 1, [2, 2, 5, 5], category=7)]
    root = make_coco(tmp_path, [(64, 48)], annotations=annotations)
    with pytest.raises(InputError, match="annotation id 2 .* category id 7, .* the model's 2 categories"):
        coco_split(root, "train2017", 2, category_ids=(1, 4))
    with pytest.raises(InputError, match="data.categories is 'sorted'; choose one of raw, contiguous"):
        coco_split(root, "train2017", categories="sorted")
