"""COCO folders: which annotations are read or skipped, and the message for each error."""

import json
import pickle

import numpy as np
import pytest
from made_coco import box, coco_split, make_coco
from PIL import Image
from pycocotools.coco import COCO
from reference_pack import data_folder

from yolos_jax.datasets.opening import find_split
from yolos_jax.errors import InputError
from yolos_jax.images.reading import UnreadableImage


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_real_annotations_match_pycocotools(split, capsys):
    root = data_folder("coco_tiny80")
    source = coco_split(root, split, 91)
    coco = COCO(str(source.origin))
    assert [e.image_id for e in source.examples] == [i["id"] for i in coco.dataset["images"]]
    assert source.label_names == {c["id"]: c["name"] for c in coco.dataset["categories"]}
    assert source.dropped["crowd"] == sum(a["iscrowd"] for a in coco.dataset["annotations"])
    for example in source.examples:
        found = coco.loadAnns(coco.getAnnIds([example.image_id], iscrowd=False))
        np.testing.assert_array_equal(example.labels, [a["category_id"] for a in found])
        want = np.array([a["bbox"] for a in found]).reshape(-1, 4)
        want[:, 2:] += want[:, :2]
        np.testing.assert_allclose(example.boxes, want.clip(0, [example.width, example.height] * 2), atol=1e-3)
        assert source.read(example).mode == "RGB"


def test_crowds_and_empty_boxes_are_dropped_and_counted(tmp_path):
    annotations = [
        box(1, 1, [4, 4, 20, 10]),
        box(2, 1, [4, 4, 20, 10], iscrowd=1),
        box(3, 1, [10, 10, 0, 5]),
        box(4, 1, [70, 10, 5, 5]),  # outside the image
        box(5, 1, [-5, 40, 20, 100], category=7),
    ]
    source = coco_split(make_coco(tmp_path, [(64, 48), (64, 48)], annotations=annotations), "train2017", 10)
    assert source.dropped == {"crowd": 1, "empty": 2}
    np.testing.assert_array_equal(source.examples[0].boxes, [[4, 4, 24, 14], [0, 40, 15, 48]])
    assert source.examples[0].labels.tolist() == [1, 7] and source.examples[1].boxes.shape == (0, 4)


@pytest.mark.parametrize(
    "bad, sentence",
    [
        (box(9, 1, [4, 4, float("nan"), 10]), "annotation id 9 of image id 1 .* 4 finite numbers"),
        (box(9, 1, [4, 4, -3, 10]), "annotation id 9 .* negative width or height"),
        (box(9, 1, [4, 4, 3]), "4 finite numbers"),
        (box(9, 1, [4, 4, 3, "x"]), "4 finite numbers"),
        (box(9, 1, [4, 4, 3, 3], category=91), "annotation id 9 of image id 1 .* category id 91"),
        (box(9, 1, [4, 4, 3, 3], category=-1), "category id -1"),
        (box(9, 1, [-1e39, 4, 1e39, 10]), "4 finite numbers"),
        (box(9, 1, [True, 4, 5, 10**400]), "4 finite numbers"),
        (box(9, 1, [4, 4, 3, 3], category=1.5), "category id 1.5"),
        (box(9, 1, [4, 4, 3, 3], category=2), "category id 2"),
        (box(9, 1, [4, 4, 3, 3], iscrowd="0"), "iscrowd '0'"),
        (box(9, 1, [4, 4, 3, 3], area=float("nan")), "area nan"),
        (box(9, "1", [4, 4, 3, 3]), r"no integer image_id \('1'\)"),
        (box(9, [1], [4, 4, 3, 3]), "no integer image_id"),
        ("box", "no list of annotations"),
        ({"id": 9}, "annotation id 9 .* no integer image_id"),
    ],
)
def test_invalid_annotations(tmp_path, bad, sentence):
    root = make_coco(tmp_path, [(64, 48)], annotations=[box(1, 1, [1, 1, 5, 5]), bad])
    with pytest.raises(InputError, match=sentence):
        coco_split(root, "train2017", 10)


def change(root, edit):
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "edit, sentence",
    [
        (lambda c: c.pop("categories"), "no list of categories"),
        (lambda c: c["images"][0].pop("file_name"), "no file_name"),
        (lambda c: c["images"][0].update(file_name="../../../etc/hostname"), "image id 1 .* is outside"),
        (lambda c: c["images"][0].update(file_name="a" * 5000), "image id 1 .*not a valid file name"),
        (lambda c: c["images"][0].update(file_name=""), "'', which is not a valid file name"),
        (lambda c: c["images"][0].update(file_name="1\0.jpg"), "not a valid file name"),
        (lambda c: c["images"][0].update(file_name="\ud800.jpg"), "not a valid file name"),
        (lambda c: c["categories"].append(c["categories"][0]), "id 1 is listed twice among the categories"),
        (lambda c: c["images"].append(c["images"][0]), "listed twice"),
        (lambda c: c["images"][0].update(file_name="gone.jpg"), "image id 1 is listed .*gone.jpg does not exist"),
        (lambda c: c["categories"][0].pop("name"), "no integer id or no name"),
        (lambda c: c.update(images=[], annotations=[]), "lists no images"),
        (lambda c: c.update(categories=[]), "has no categories"),
        (
            lambda c: c["categories"].append({"id": -1, "name": "minus"}),
            "has no categories, or a category with a negative id",
        ),
        (
            lambda c: c["categories"].append({"id": 10, "name": "ten"}),
            r"category id 10 .* outside 0\.\.9; .*num_classes=0",
        ),
    ],
)
def test_invalid_annotation_files(tmp_path, edit, sentence):
    root = make_coco(tmp_path, [(64, 48)])
    change(root, edit)
    with pytest.raises(InputError, match=sentence):
        coco_split(root, "train2017", 10)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(InputError, match="data folder .* does not exist"):
        find_split(tmp_path / "no", "train2017")
    with pytest.raises(InputError, match="image folder"):
        coco_split(tmp_path, "train2017", 10)
    (tmp_path / "train2017").mkdir()
    with pytest.raises(InputError, match="annotation file .* does not exist"):
        coco_split(tmp_path, "train2017", 10)
    (tmp_path / "annotations").mkdir()
    for text in ("{", "[" * 100_000, '{"images": ' + "1" * 5000 + "}", "[1]"):
        (tmp_path / "annotations" / "instances_train2017.json").write_text(text)
        with pytest.raises(InputError, match="not valid JSON|no list of images"):
            coco_split(tmp_path, "train2017", 10)


def test_images_of_a_different_size_are_reported(tmp_path):
    root = make_coco(tmp_path, [(64, 48)])
    Image.new("RGB", (30, 30)).save(root / "train2017" / "1.jpg")
    source = coco_split(root, "train2017", 10)
    with pytest.raises(UnreadableImage, match="30x30 pixels but is annotated as 64x48"):
        source.read(source.examples[0])


def test_invalid_entries_are_skipped_if_complain_returns(tmp_path):
    annotations = [
        box(1, 1, [4, 4, 20, 10]),
        box(2, 1, [4, 4, float("nan"), 10]),
        box(3, 9, [4, 4, 20, 10]),
        box(4, 2, [0, 0, 9, 9], category=5),
    ]
    root = make_coco(tmp_path, [(64, 48)] * 3, annotations=annotations)
    change(root, lambda c: c["images"][2].update(file_name="gone.jpg"))
    said = []
    source = coco_split(root, "train2017", complain=said.append)
    assert [(e.image_id, e.labels.tolist()) for e in source.examples] == [(1, [1]), (2, [])]
    expected = ["annotation id 2 ", "annotation id 4 ", "gone.jpg"]
    assert len(said) == 3 and all(any(part in sentence for sentence in said) for part in expected)


def test_a_source_can_be_pickled(tmp_path):
    source = coco_split(make_coco(tmp_path, [(64, 48)]), "train2017", complain=lambda sentence: None)
    again = pickle.loads(pickle.dumps(source))
    assert again.examples.fingerprint() == source.examples.fingerprint()
    np.testing.assert_array_equal(again.read(again.examples[0]), source.read(source.examples[0]))


def test_annotations_and_images_in_other_locations(tmp_path):
    root = make_coco(tmp_path / "usual", [(64, 48), (48, 64)])
    usual = coco_split(root, "train2017")
    (root / "train2017").rename(tmp_path / "images")
    (root / "annotations" / "instances_train2017.json").rename(tmp_path / "boxes.json")
    places = {"annotations": tmp_path / "boxes.json", "image_folder": tmp_path / "images"}
    moved = coco_split(tmp_path / "nowhere", "unused", **places)
    assert moved.examples.fingerprint() == usual.examples.fingerprint()
    assert moved.read(moved.examples[1]).size == (48, 64)
    assert [e.image_id for e in coco_split("", "", max_images=1, **places).examples] == [1]
