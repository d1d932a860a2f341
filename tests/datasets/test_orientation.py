"""Boxes and image sizes determine whether EXIF rotations are applied, and all readers apply the same decision."""

import json
import pickle

import numpy as np
import pytest
from made_coco import box, coco_split, make_coco
from PIL import Image, ImageOps

from yolos_jax.datasets.settings import Settled
from yolos_jax.images.reading import UnreadableImage
from yolos_jax.tools import survey

LYING = (64, 48)  # as stored; orientation 6 makes it 48 wide and 64 high


def turned_folder(root, bbox, sizes=LYING, stored=LYING, orientation=6, count=4, split="train"):
    """Writes images with an EXIF rotation and one box each; `sizes` is the annotated (width, height)."""
    make_coco(root, [stored] * count, split, [box(i, i, bbox) for i in range(1, count + 1)])
    exif = Image.Exif()
    exif[0x0112] = orientation
    for path in (root / split).iterdir():
        with Image.open(path) as image:
            image.load()
        image.save(path, exif=exif, quality=95)
    file = root / "annotations" / f"instances_{split}.json"
    content = json.loads(file.read_text())
    for image in content["images"]:
        image["width"], image["height"] = sizes
    file.write_text(json.dumps(content))
    return root


ONLY_UPRIGHT, ONLY_STORED, BOTH = [36, 40, 8, 20], [50, 10, 12, 20], [4, 4, 20, 20]


@pytest.mark.parametrize("bbox, sizes, stored, orientation, upright, why", [
    (ONLY_UPRIGHT, LYING, LYING, 6, True, "the boxes of 4 of them fit"),  # boxes take precedence over sizes
    (ONLY_UPRIGHT, (48, 64), LYING, 6, True, "the boxes of 4"),
    (ONLY_STORED, LYING, LYING, 8, False, "the boxes of 4"),
    (BOTH, LYING, LYING, 6, False, "the annotated sizes of 4"),
    (BOTH, (48, 64), LYING, 5, True, "the annotated sizes of 4"),
    (BOTH, LYING, LYING, 3, True, "do not determine"),
    (BOTH, (64, 64), (64, 64), 6, True, "do not determine"),
])  # fmt: skip
def test_the_decision_and_its_reason(tmp_path, bbox, sizes, stored, orientation, upright, why):
    source = coco_split(turned_folder(tmp_path, bbox, sizes, stored, orientation), "train")
    assert source.exif.upright == upright and len(source.exif.turned) == 4
    (note,) = source.notes
    assert why in note and ("rotated upright" if upright else "read as stored") in note
    assert ("data.upright=no" in note and "1.jpg" in note) == (why == "do not determine")
    example = source.examples[0]
    found = pickle.loads(pickle.dumps(source)).read(example)  # as data workers read it
    with Image.open(example.file) as image:
        expected = ImageOps.exif_transpose(image) if upright else image
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected.convert("RGB")))
    assert found.size == (example.width, example.height)
    x, y, w, h = bbox
    np.testing.assert_array_equal(example.boxes, [[x, y, x + w, y + h]])


def test_the_setting_takes_precedence(tmp_path):
    root = turned_folder(tmp_path, ONLY_UPRIGHT)
    stored = coco_split(root, "train", upright="no")
    assert stored.read(stored.examples[0]).size == LYING and "data.upright=no" in stored.notes[0]
    np.testing.assert_array_equal(stored.examples[0].boxes, [[36, 40, 44, 48]])  # clipped, as in the reference
    assert stored.clipped == 4
    lying = turned_folder(tmp_path / "b", BOTH)
    upright = coco_split(lying, "train", upright="yes")
    assert upright.read(upright.examples[0]).size == (48, 64) == (upright.examples[0].width, upright.examples[0].height)


def test_sizes_that_fit_neither_orientation(tmp_path):
    source = coco_split(turned_folder(tmp_path, BOTH, sizes=(30, 40)), "train")
    assert source.exif.unclear == source.exif.turned
    with pytest.raises(UnreadableImage, match="48x64 pixels but is annotated as 30x40"):
        source.read(source.examples[0])


def test_outvoted_images_are_reported(tmp_path):
    root = turned_folder(tmp_path, ONLY_UPRIGHT)
    file = root / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][2]["bbox"] = ONLY_STORED
    file.write_text(json.dumps(content))
    source = coco_split(root, "train")
    assert source.exif.upright and source.exif.against == ("3.jpg",)
    assert "annotations of 3.jpg fit only the other orientation" in source.notes[0]


def test_undecided_images_follow_the_other_split(tmp_path):
    root = turned_folder(tmp_path, BOTH, (64, 64), (64, 64))
    source = coco_split(root, "train", settled=Settled(exif="stored"))
    assert not source.exif.upright and "as in the other split" in source.notes[0]


def test_no_note_without_rotated_images(tmp_path):
    root = turned_folder(tmp_path, BOTH, orientation=1)
    assert coco_split(root, "train").notes == () and not coco_split(root, "train").exif.turned


def test_check_data_lists_the_rotated_images(tmp_path):
    root = turned_folder(tmp_path, ONLY_UPRIGHT)
    problems = []
    split = survey.survey_split("train", lambda complain: coco_split(root, "train", complain=complain), problems)
    notes = survey.notes([split], 100)
    listed = "4 images of the train split that have an EXIF rotation: 1.jpg, 2.jpg, 3.jpg, 4.jpg"
    assert not problems and notes[1] == listed


@pytest.mark.parametrize("upright", ["auto", "yes"])
def test_images_without_a_size_are_opened_once(tmp_path, monkeypatch, upright):
    root = turned_folder(tmp_path, ONLY_UPRIGHT)
    file = root / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    for image in content["images"]:
        del image["width"], image["height"]
    file.write_text(json.dumps(content))
    opened, openings = Image.open, []
    monkeypatch.setattr(Image, "open", lambda source: openings.append(source.name) or opened(source))
    source = coco_split(root, "train", upright=upright)
    assert sorted(openings) == [str(root / "train" / f"{i}.jpg") for i in range(1, 5)]
    assert source.exif.upright and source.examples.sizes.tolist() == [[48, 64]] * 4
