"""Class folders: which files are found, how they are read, and which folders are rejected."""

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
    assert len(ClassFolders(root, "validation")) == 6  # another common name for the split
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.read(8)[0], read[8][0])
    few = ClassFolders(root, "train", max_images=3)  # evenly spread, so every class has an image
    assert [few.read(i)[1] for i in range(3)] == [0, 1, 2]


def test_a_folder_of_classes_is_the_training_split(root):
    source = ClassFolders(root / "val", "train")
    assert source.names == CLASSES and len(source) == 6
    with pytest.raises(MissingSplit, match="split val .*; it has train"):
        ClassFolders(root / "val", "val")


def test_unusual_files_of_imagenet_are_read(root):
    """A CMYK JPEG, a PNG named .JPEG, a grey image, and upper-case extensions."""
    folder, random = root / "train" / "red", np.random.default_rng(0)
    image = picture("red", random)
    (folder / "n1.JPEG").write_bytes(encoded(image.convert("CMYK"), "JPEG"))
    (folder / "n2.JPEG").write_bytes(encoded(image, "PNG"))
    (folder / "n3.JPEG").write_bytes(encoded(image.convert("L"), "JPEG"))
    (folder / ".n4.JPEG").write_bytes(b"created by a file system")
    source = ClassFolders(root, "train")
    assert len(source) == 12
    cmyk, png, grey = (source.read(i)[0] for i in range(9, 12))
    assert {one.mode for one in (cmyk, png, grey)} == {"RGB"}
    np.testing.assert_array_equal(png, image)
    assert np.abs(np.asarray(cmyk, int).mean((0, 1)) - np.asarray(image, int).mean((0, 1))).max() < 12
    values = np.asarray(grey)
    np.testing.assert_array_equal(values[..., 0], values[..., 2])


def test_damaged_images_are_reported(root):
    path = root / "train" / "blue" / "001.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UnreadableImage, match=r"blue/001\.jpg cannot be read"):
        ClassFolders(root, "train").read(1)


def test_errors(root, tmp_path):
    with pytest.raises(InputError, match="the folder .*nothing does not exist; set --config.data.root"):
        ClassFolders(tmp_path / "nothing", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty .* no class folders"):
        ClassFolders(tmp_path / "empty", "train")
    (root / "train" / "amber").mkdir()
    (root / "train" / "amber" / "a.raw").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"the class folder .*train/amber contains no images .*\(1 other file \(.raw 1\)\)"
    ):
        ClassFolders(root, "train")
    flat = make_classes(tmp_path / "flat", "train", 1)
    (flat / "val").mkdir()
    (flat / "val" / "a.JPEG").write_bytes(b"")
    with pytest.raises(MissingSplit, match="flat/val contains images .* class folders; sort them"):
        ClassFolders(flat, "val")


def test_all_extensions_that_pillow_reads_are_found(root):
    """Browsers save images as .jfif and .avif, for example. Files that are not images are counted and reported."""
    folder, image = root / "train" / "red", picture("red", np.random.default_rng(0))
    for ending, kind in ((".jfif", "JPEG"), (".AVIF", "AVIF"), (".jp2", "JPEG2000"), (".tga", "TGA"), (".pnm", "PPM")):
        (folder / f"x{ending}").write_bytes(encoded(image, kind))
    plain = ClassFolders(root, "train")
    assert len(plain) == 9 + 5 and not plain.notes
    for name in ("red/Thumbs.db", "red/a.raw", "red/b.raw", "red/noending", "labels.txt", ".ipynb_checkpoints/x.jpg",
                 "__MACOSX/._0.jpg", "sheet.png"):  # fmt: skip
        (root / "train" / name).parent.mkdir(exist_ok=True)
        (root / "train" / name).write_bytes(b"")
    found = ClassFolders(root, "train")
    assert found.names == CLASSES and found.fingerprint() == plain.fingerprint()
    others = "4 other files (.raw 2, .txt 1, no extension 1), 2 hidden folders, 1 stray image, 1 hidden file"
    assert found.notes == (f"skipped in {root}/train: {others}, for example {root}/train/.ipynb_checkpoints",)


def test_images_in_subfolders_belong_to_the_class(root, tmp_path):
    deep = tmp_path / "deep"
    for name in CLASSES:
        for i in range(3):
            (deep / "train" / name / f"cam{i % 2}" / "day").mkdir(parents=True, exist_ok=True)
            shutil.copy(root / "train" / name / f"{i:03}.jpg", deep / "train" / name / f"cam{i % 2}" / "day")
    flat, found = ClassFolders(root, "train"), ClassFolders(deep, "train")
    assert found.names == CLASSES and len(found) == 9
    for i, place in enumerate((0, 2, 1)):  # cam0 comes first
        pixels, label = found.read(3 + i)
        assert label == 1
        np.testing.assert_array_equal(pixels, flat.read(3 + place)[0])
    (note,) = found.notes
    assert note.startswith(
        f"{deep}/train has 9 images in subfolders of class folders (for example blue/cam0/day/000.jpg"
    )
    assert ClassFolders(deep / "train", "train").fingerprint() == found.fingerprint()  # the root is named like a split
    (deep / "train").rename(deep / "mine")
    (deep / "mine" / "white").mkdir()
    shutil.copy(root / "train" / "red" / "000.jpg", deep / "mine" / "white")
    mixed = ClassFolders(deep / "mine", "train")  # one class folder contains only images, so the folders are not splits
    assert mixed.names == (*CLASSES, "white") and len(mixed) == 10
    shutil.rmtree(deep / "mine" / "white")
    with pytest.raises(MissingSplit, match=r"blue, green, red; .* move them into .*mine/train"):
        ClassFolders(deep / "mine", "train")


@pytest.mark.parametrize("outer", ["insects", "archive/insects"])
def test_a_folder_around_the_data_set_is_reported(root, tmp_path, outer):
    (tmp_path / "zip" / outer).parent.mkdir(parents=True)
    root.rename(tmp_path / "zip" / outer)
    for split in ("train", "val"):
        with pytest.raises(InputError, match=f"zip .*{outer}.* --config.data.root=.*{outer}"):
            ClassFolders(tmp_path / "zip", split)
    assert len(ClassFolders(tmp_path / "zip" / outer, "train")) == 9


def test_folders_in_class_folders_are_not_splits(root, tmp_path):
    """A split may contain stray images next to its class folders."""
    alone = make_classes(tmp_path / "alone", "train", 2) / "train"
    shutil.copytree(alone / "red", alone / "red" / "crops")
    found = ClassFolders(alone, "train")
    assert found.names == CLASSES and len(found) == 8 and found.folder == alone
    with pytest.raises(MissingSplit, match="the split val does not exist in .*alone/train"):
        ClassFolders(alone, "val")
    plain = ClassFolders(root, "train")
    shutil.copy(root / "train" / "red" / "000.jpg", root / "train" / "sheet.jpg")
    stray = ClassFolders(root, "train")
    assert stray.folder == plain.folder and stray.fingerprint() == plain.fingerprint()
    assert stray.notes == (f"skipped in {root}/train: 1 stray image, for example {root}/train/sheet.jpg",)
    shutil.copytree(root / "train" / "red", root / "scans")
    assert ClassFolders(root, "train").notes[0].endswith("not splits are skipped: scans")
    (root / "train").rename(tmp_path / "mine")
    only = tmp_path / "only"
    only.mkdir()
    (tmp_path / "mine").rename(only / "mine")  # the only split, with an uncommon name and a stray image
    assert ClassFolders(only, "train").fingerprint() == plain.fingerprint()


def test_only_unknown_classes_are_rejected(root):
    """The validation split may lack some class folders, or they may be empty. Labels are matched by name."""
    train = ClassFolders(root, "train")
    classes = train.names, "the training set"
    (root / "val" / "green").rename(root / "val" / "violet")
    with pytest.raises(InputError, match=r"val has 1 class that the training set lacks: violet; .*\(not in .*: green"):
        ClassFolders(root, "val", classes=classes)
    shutil.rmtree(root / "val" / "violet")
    lacks = f"{root}/val has no images for 1 of the 3 classes (excluded from the score): green"
    for _ in range(2):
        val = ClassFolders(root, "val", classes=classes)
        assert val.names == CLASSES and val.notes == (lacks,)
        assert [val.read(i)[1] for i in range(len(val))] == [0, 0, 2, 2]
        (root / "val" / "green").mkdir(exist_ok=True)  # exists, but is empty
    (root / "val" / "red").rename(root / "val" / "Red")
    val = ClassFolders(root, "val", classes=classes)
    assert [val.read(i)[1] for i in range(len(val))] == [0, 0, 2, 2] and "Red/000.jpg" in val.name(2)
    assert f"classes in {root}/val are matched despite different spelling: 'Red' as 'red'" in val.notes
    (root / "val" / "RED").mkdir()  # ambiguous
    with pytest.raises(InputError, match="1 class that the training set lacks: Red|lacks: RED"):
        ClassFolders(root, "val", classes=classes)
    for name in ("Red", "RED", "blue"):
        shutil.rmtree(root / "val" / name)
    with pytest.raises(InputError, match="val contains no images"):
        ClassFolders(root, "val", classes=classes)


def test_the_fingerprint_does_not_depend_on_paths(root, tmp_path):
    found = ClassFolders(root, "train").fingerprint()
    root.rename(tmp_path / "moved")
    assert ClassFolders(tmp_path / "moved", "train").fingerprint() == found
    (tmp_path / "moved" / "train" / "red" / "000.jpg").rename(tmp_path / "moved" / "train" / "red" / "900.jpg")
    assert ClassFolders(tmp_path / "moved", "train").fingerprint() != found
