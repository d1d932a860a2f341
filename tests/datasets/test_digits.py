"""The generated data set of handwritten digits: scans are split before scenes are composed, and boxes are tight."""

import builtins
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from yolos_jax.datasets import digits, single_digits
from yolos_jax.errors import InputError

TRAIN, VAL = 60, 25


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("digits") / "coco"
    digits.write(out, TRAIN, VAL, seed=3)
    return out


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_same_seed_writes_the_same_files(folder, tmp_path):
    digits.write(tmp_path / "again", TRAIN, VAL, seed=3)
    assert files(tmp_path / "again") == files(folder)
    digits.write(tmp_path / "other", TRAIN, VAL, seed=4)
    assert files(tmp_path / "other").keys() == files(folder).keys()
    assert files(tmp_path / "other") != files(folder)


def test_validation_scenes_do_not_depend_on_the_number_of_training_scenes(folder, tmp_path):
    digits.write(tmp_path / "fewer", 5, VAL, seed=3)

    def images(root):
        return [path.read_bytes() for path in sorted((root / "val2017").iterdir())]

    assert images(tmp_path / "fewer") == images(folder)


def test_splits_share_no_digits():
    labels = digits.load_digits().labels
    train, val = digits.split_digits(labels)
    assert not set(train) & set(val)
    assert sorted([*train, *val]) == list(range(1797))
    for label in range(10):
        share = (labels[val] == label).sum() / (labels == label).sum()
        assert 0.18 < share < 0.22


@pytest.mark.parametrize("split", [0, 1])
def test_scenes_use_only_digits_of_their_split(split):
    source = digits.load_digits()
    pool = digits.split_digits(source.labels)[split]
    random = np.random.default_rng(0)
    scenes = [digits.compose(source, pool, random) for _ in range(100)]
    used = np.concatenate([scene.digits for scene in scenes])
    assert set(used) <= set(pool)
    for scene in scenes:
        assert len(scene.boxes) == len(scene.labels) == len(scene.digits)
        np.testing.assert_array_equal(scene.labels, source.labels[scene.digits])


@pytest.mark.parametrize("split, count", [("train2017", TRAIN), ("val2017", VAL)])
def test_pycocotools_can_read_the_folder(folder, split, count):
    coco = COCO(folder / "annotations" / f"instances_{split}.json")
    assert len(coco.imgs) == count
    assert {cat["id"]: cat["name"] for cat in coco.dataset["categories"]} == {i: str(i) for i in range(10)}
    numbers = set()
    for image in coco.dataset["images"]:
        with Image.open(folder / split / image["file_name"]) as stored:
            assert stored.mode == "RGB"
            assert stored.size == (image["width"], image["height"])
        annotations = coco.imgToAnns[image["id"]]
        numbers.add(len(annotations))
        for annotation in annotations:
            assert annotation["iscrowd"] == 0
            assert annotation["area"] == annotation["bbox"][2] * annotation["bbox"][3]
            assert 0 <= annotation["category_id"] <= 9
    assert numbers == {1, 2, 3}
    assert len(coco.anns) == len(coco.dataset["annotations"])  # ids are unique


def test_splits_share_no_image_ids(folder):
    ids = [
        {image["id"] for image in json.loads(path.read_text())["images"]}
        for path in sorted((folder / "annotations").iterdir())
    ]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_boxes_are_tight(folder, split):
    """The background has one colour, so the test can find the digits' pixels independently."""
    coco = COCO(folder / "annotations" / f"instances_{split}.json")
    for image in coco.dataset["images"]:
        pixels = np.asarray(Image.open(folder / split / image["file_name"])).astype(int)
        colours, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
        ink = (pixels != colours[counts.argmax()]).any(-1)
        covered = np.zeros_like(ink)
        for annotation in coco.imgToAnns[image["id"]]:
            x, y, width, height = annotation["bbox"]
            inside = ink[y : y + height, x : x + width]
            assert inside.shape == (height, width)
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
            assert not covered[y : y + height, x : x + width].any(), "boxes overlap"
            covered[y : y + height, x : x + width] = True
        assert not (ink & ~covered).any()


def test_folders_that_are_not_empty_are_rejected(tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        digits.write(tmp_path, 1, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    with pytest.raises(InputError, match="not an empty folder"):
        digits.write(tmp_path / "letter.txt", 1, 1)


def test_an_empty_folder_is_accepted(tmp_path):
    digits.write(tmp_path, 1, 1)
    assert (tmp_path / "annotations" / "instances_val2017.json").is_file()


@pytest.mark.parametrize(
    "arguments, said", [((0, 1, 0), "--train is 0"), ((1, -2, 0), "--val is -2"), ((1, 1, -1), "--seed")]
)
def test_invalid_numbers_are_rejected(tmp_path, arguments, said):
    with pytest.raises(InputError, match=said):
        digits.write(tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_missing_scikit_learn_is_reported(monkeypatch, tmp_path):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.split(".")[0] == "sklearn":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match="pip install scikit-learn"):
        digits.write(tmp_path / "out", 1, 1)


def test_command_line_does_not_import_jax(tmp_path):
    arguments = ["--out", str(tmp_path / "out"), "--train", "3", "--val", "2"]
    command = [sys.executable, "-m", "yolos_jax.datasets.digits", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "3 training and 2 validation scenes" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2
    assert again.stderr.startswith("error: ") and again.stderr.count("\n") == 1
    look = "import sys, yolos_jax.datasets.digits as d; d.load_digits(); print('jax' in sys.modules)"
    alone = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert alone.stdout.strip() == "False"


def test_single_digits_have_the_same_split(tmp_path, monkeypatch):
    """No training image shows a validation scan, and each image is in the class folder of its digit."""
    drawn, draw = [], single_digits.one_digit

    def recorded(found, which, random):
        drawn.append(which)
        return draw(found, which, random)

    monkeypatch.setattr(single_digits, "one_digit", recorded)
    single_digits.write(tmp_path / "a", train=40, val=20, seed=3)
    scans = digits.load_digits()
    train, val = digits.split_digits(scans.labels)
    assert set(drawn[:40]) <= set(train.tolist()) and set(drawn[40:]) <= set(val.tolist()) and len(drawn) == 60
    single_digits.write(tmp_path / "b", train=40, val=20, seed=3)
    assert files(tmp_path / "a") == files(tmp_path / "b") and len(files(tmp_path / "a")) == 60
    for number, which in enumerate(drawn[:40]):
        with Image.open(tmp_path / "a" / "train" / str(scans.labels[which]) / f"{number:06d}.png") as image:
            pixels = np.asarray(image)
        assert pixels.shape == (40, 40, 3) and (pixels.max((0, 1)) >= 160).all() and np.median(pixels) < 32
    with pytest.raises(InputError, match="--val is 3; it must be 10 or more"):
        single_digits.write(tmp_path / "c", val=3)
