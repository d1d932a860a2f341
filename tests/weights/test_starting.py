"""Tests starting weights and custom data."""

import dataclasses
import json

import numpy as np
import pytest
from made_coco import box, coco_split, make_coco
from micro_run import assert_equal_trees
from tiny_weights import TINY, deit_state, huggingface_folder, random_params, reference_state, write

from yolos_jax.errors import InputError
from yolos_jax.model.yolos import build
from yolos_jax.training import checkpoint_files
from yolos_jax.weights import checkpoints
from yolos_jax.weights.starting import starting_params

SEVEN = dataclasses.replace(TINY, num_classes=7)


def split_head(params):
    """Returns the parameters without the last layer of the class head, and that layer."""
    head = dict(params["class_head"])
    last = head.pop("fc3")
    return params | {"class_head": head}, last


def sources(folder):
    """Saves the same weights as a reference file, a Hugging Face folder and a yolos-jax checkpoint."""
    params = random_params(TINY)
    checkpoints.save(folder / "ours", 5, params, checkpoint_files.Meta(TINY, {1: "a"}, 5))
    return {
        "reference": write(folder / "yolos.safetensors", reference_state()),
        "huggingface": huggingface_folder(folder / "hf"),
        "ours": folder / "ours",
    }


@pytest.mark.parametrize("kind", ["reference", "huggingface", "ours"])
def test_different_number_of_classes_initialises_one_layer(tmp_path, kind, capsys):
    params = starting_params(SEVEN, str(sources(tmp_path)[kind]), 3)
    assert "has 4 classes and the data has 7: the last layer of the class head" in capsys.readouterr().out
    rest, last = split_head(params)
    assert_equal_trees(rest, split_head(random_params(TINY))[0])
    assert_equal_trees(last, split_head(build(SEVEN, 3)[1])[1])
    assert last["bias"].shape == (8,)


@pytest.mark.parametrize("kind", ["reference", "huggingface", "ours"])
def test_same_number_of_classes_keeps_all_layers(tmp_path, kind, capsys):
    assert_equal_trees(starting_params(TINY, str(sources(tmp_path)[kind]), 3), random_params(TINY))
    assert "last layer" not in capsys.readouterr().out


def test_classifier_initialises_heads(tmp_path, capsys):
    params = starting_params(SEVEN, str(write(tmp_path / "deit.safetensors", deit_state())), 3)
    fresh = build(SEVEN, 3)[1]
    assert_equal_trees(params["class_head"], fresh["class_head"])
    printed = capsys.readouterr().out
    assert "  class_embed.layers.0.weight" in printed.splitlines()
    assert "used: " in printed and "norm1" not in printed  # the names of copied tensors are not listed


def test_rejects_different_model(tmp_path):
    folder = sources(tmp_path)
    deeper = dataclasses.replace(SEVEN, depth=4)
    for where in folder.values():
        with pytest.raises(InputError):
            starting_params(deeper, str(where), 0)


CATEGORIES = [{"id": 40, "name": "late"}, {"id": 3, "name": "early"}, {"id": 17, "name": "middle"}]
BOXES = [box(1, 1, [1, 1, 9, 9], 17), box(2, 1, [2, 2, 9, 9], 40), box(3, 2, [3, 3, 9, 9], 3)]


def own_data(root, split="train2017", categories=CATEGORIES):
    return make_coco(root, [(64, 48)] * 2, split, BOXES, categories)


def test_raw_and_contiguous_categories(tmp_path):
    root = own_data(tmp_path)
    raw = coco_split(root, "train2017")
    assert raw.num_classes == 41 and raw.label_names == {40: "late", 3: "early", 17: "middle"}
    assert raw.examples[0].labels.tolist() == [17, 40]
    counted = coco_split(root, "train2017", categories="contiguous")
    assert counted.num_classes == 3 and counted.category_ids == (3, 17, 40)
    assert counted.label_names == {0: "early", 1: "middle", 2: "late"}
    assert [e.labels.tolist() for e in counted.examples] == [[1, 2], [0]]


def test_other_splits_use_labels_of_model(tmp_path):
    """A validation file with fewer categories must not shift the labels."""
    root = own_data(tmp_path)
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["categories"] = [c for c in content["categories"] if c["id"] != 3]
    content["annotations"] = content["annotations"][:2]
    path.write_text(json.dumps(content))
    source = coco_split(root, "train2017", 3, categories="contiguous", category_ids=(3, 17, 40))
    assert source.examples[0].labels.tolist() == [1, 2] and source.num_classes == 3
    with pytest.raises(InputError, match="category id 40.*none of the model's 2 categories|category id 40"):
        coco_split(root, "train2017", 2, categories="contiguous", category_ids=(3, 17))


def test_annotations_and_images_in_other_locations(tmp_path):
    root = own_data(tmp_path)
    (root / "annotations" / "instances_train2017.json").rename(tmp_path / "mine.json")
    (root / "train2017").rename(tmp_path / "images")
    source = coco_split("", "", annotations=tmp_path / "mine.json", image_folder=tmp_path / "images")
    assert len(source.examples) == 2 and source.read(source.examples[0]).size == (64, 48)


def test_fingerprint_does_not_depend_on_paths(tmp_path):
    a, b = (coco_split(own_data(tmp_path / name), "train2017") for name in "ab")
    assert a.examples.fingerprint() == b.examples.fingerprint()
    c = coco_split(make_coco(tmp_path / "c", [(64, 48)] * 2, annotations=BOXES[:2], categories=CATEGORIES), "train2017")
    assert c.examples.fingerprint() != a.examples.fingerprint()
    np.testing.assert_array_equal(a.examples.counts, [2, 1])
