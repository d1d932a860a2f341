"""Folders of class folders: what is found, read and refused."""

import pickle
import shutil

import numpy as np
import pytest
from made_classes import CLASSES, encoded, make_classes, picture
from PIL import Image

from yolos_jax.datasets.class_folders import ClassFolders
from yolos_jax.datasets.splits import MissingSplit
from yolos_jax.errors import InputError
from yolos_jax.images.reading import UnreadableImage


@pytest.fixture
def root(tmp_path):
    return make_classes(make_classes(tmp_path / "data", "train", 3), "val", 2)


def test_names_labels_and_pixels(root):
    source = ClassFolders(root, "train")
    assert source.names == CLASSES and len(source) == 9
    read = [source.read(i) for i in range(9)]
    assert [label for _, label in read] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    with Image.open(root / "train" / "green" / "001.jpg") as want:
        np.testing.assert_array_equal(read[4][0], want)
    assert source.name(4) == str(root / "train" / "green" / "001.jpg")
    assert len(ClassFolders(root, "validation")) == 6  # another usual name
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.read(8)[0], read[8][0])
    few = ClassFolders(root, "train", max_images=3)  # spread evenly, so of every class
    assert [few.read(i)[1] for i in range(3)] == [0, 1, 2]


def test_a_folder_of_classes_is_to_train_on(root):
    source = ClassFolders(root / "val", "train")
    assert source.names == CLASSES and len(source) == 6
    with pytest.raises(MissingSplit, match="the split val does not exist in .*; it has train"):
        ClassFolders(root / "val", "val")


def test_what_imagenet_is_known_for_is_read(root):
    """A JPEG in CMYK, a PNG named JPEG, grey, and an ending in capitals."""
    folder, random = root / "train" / "red", np.random.default_rng(0)
    image = picture("red", random)
    (folder / "n1.JPEG").write_bytes(encoded(image.convert("CMYK"), "JPEG"))
    (folder / "n2.JPEG").write_bytes(encoded(image, "PNG"))
    (folder / "n3.JPEG").write_bytes(encoded(image.convert("L"), "JPEG"))
    (folder / ".n4.JPEG").write_bytes(b"a file system's own")
    source = ClassFolders(root, "train")
    assert len(source) == 12
    cmyk, png, grey = (source.read(i)[0] for i in range(9, 12))
    assert {one.mode for one in (cmyk, png, grey)} == {"RGB"}
    np.testing.assert_array_equal(png, image)
    assert np.abs(np.asarray(cmyk, int).mean((0, 1)) - np.asarray(image, int).mean((0, 1))).max() < 12
    values = np.asarray(grey)
    np.testing.assert_array_equal(values[..., 0], values[..., 2])


def test_a_damaged_picture_is_named(root):
    path = root / "train" / "blue" / "001.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UnreadableImage, match=r"blue/001\.jpg cannot be read"):
        ClassFolders(root, "train").read(1)


def test_what_is_refused(root, tmp_path):
    with pytest.raises(InputError, match="the folder .*nothing does not exist; set --config.data.root"):
        ClassFolders(tmp_path / "nothing", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no class folders with images"):
        ClassFolders(tmp_path / "empty", "train")
    (root / "train" / "amber").mkdir()
    with pytest.raises(InputError, match="the class folder .*train/amber holds no image"):
        ClassFolders(root, "train")
    flat = make_classes(tmp_path / "flat", "train", 1)
    (flat / "val").mkdir()
    (flat / "val" / "a.JPEG").write_bytes(b"")
    with pytest.raises(MissingSplit, match="flat/val holds images and no class folders; sort them"):
        ClassFolders(flat, "val")


def test_folders_in_class_folders_are_no_splits(root, tmp_path):
    """They are named, and a split may have stray images beside its class folders."""
    alone = make_classes(tmp_path / "alone", "train", 2) / "train"
    shutil.copytree(alone / "red", alone / "red" / "crops")
    found = ClassFolders(alone, "train")
    assert found.names == CLASSES and len(found) == 6 and found.folder == alone
    assert f"folders inside class folders of {alone} are left out: red/crops" in found.notes
    with pytest.raises(MissingSplit, match="the split val does not exist in .*alone/train"):
        ClassFolders(alone, "val")
    plain = ClassFolders(root, "train")
    shutil.copy(root / "train" / "red" / "000.jpg", root / "train" / "sheet.jpg")
    stray = ClassFolders(root, "train")
    assert stray.folder == plain.folder and stray.fingerprint() == plain.fingerprint() and not stray.notes
    (root / "train").rename(tmp_path / "mine")
    only = tmp_path / "only"
    only.mkdir()
    (tmp_path / "mine").rename(only / "mine")  # the only one, of a name that no tool uses, with a stray image
    assert ClassFolders(only, "train").fingerprint() == plain.fingerprint()


def test_classes_that_differ_are_listed(root):
    (root / "val" / "green").rename(root / "val" / "violet")
    train = ClassFolders(root, "train")
    with pytest.raises(InputError, match="violet only in .*val; green only in .*train. Both must have the same"):
        ClassFolders(root, "val", classes=(train.names, train.origin))


def test_the_fingerprint_is_of_content_not_of_places(root, tmp_path):
    found = ClassFolders(root, "train").fingerprint()
    root.rename(tmp_path / "moved")
    assert ClassFolders(tmp_path / "moved", "train").fingerprint() == found
    (tmp_path / "moved" / "train" / "red" / "000.jpg").rename(tmp_path / "moved" / "train" / "red" / "900.jpg")
    assert ClassFolders(tmp_path / "moved", "train").fingerprint() != found
