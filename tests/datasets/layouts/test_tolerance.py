"""Tolerated problems: name variants, links, missing sizes, unlisted images, missing files and hidden files."""

import json
import shutil

import pytest
from made_coco import box, coco_split, make_coco
from PIL import Image

from yolos_jax.config.reader import read_recipe
from yolos_jax.config.recipes import DetectionConfig, detection_recipe
from yolos_jax.datasets.splits import MissingSplit, choose
from yolos_jax.errors import InputError
from yolos_jax.images.reading import UnreadableImage
from yolos_jax.tasks import recipe


def change(root, edit, split="train2017"):
    path = root / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def read(root, which="train", **changes):
    config = detection_recipe("ti")
    config.update_from_flattened_dict({"data.root": str(root), "model.num_classes": 0} | changes)
    return recipe.source_of(read_recipe(config, DetectionConfig), which)


def named(tmp_path, on_disk, listed):
    """A source whose images have different names on disk and in the annotations."""
    root = make_coco(tmp_path, [(64, 48)] * len(listed))
    for i, name in enumerate(on_disk, 1):
        (root / "train2017" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "train2017" / f"{i}.jpg").rename(root / "train2017" / name)
    change(root, lambda c: [image.update(file_name=name) for image, name in zip(c["images"], listed)])
    return coco_split(root, "train2017", 10)


@pytest.mark.parametrize(
    "on_disk, listed",
    [
        ("a/b.jpg", "a\\b.jpg"),
        ("b.jpg", "train2017/b.jpg"),
        ("b.jpg", "images\\train2017\\b.jpg"),
        ("deep/er/b.jpg", "b.jpg"),
        ("deep/er/b.jpg", "er/b.jpg"),
        ("B.JPG", "b.jpg"),
        ("a b.jpg", "a%20b.jpg"),
        ("b.jpg", "b"),
        ("a/b.jpg", "A/b"),
        ("../train2017/b.jpg", "b.jpg"),
    ],
)
def test_other_spellings_are_found_and_reported_once(tmp_path, on_disk, listed):
    source = named(tmp_path, [on_disk, "other.jpg"], [listed, "other.jpg"])
    assert source.examples[0].file.endswith(on_disk.split("../train2017/")[-1])
    assert source.read(source.examples[0]).size == (64, 48)
    said = [note for note in source.notes if "different spelling" in note]
    assert len(said) == (on_disk != "../train2017/b.jpg")
    assert not said or (said[0].startswith("1 images in") and repr(listed) in said[0])
    if said:
        assert source.place(listed) == str((source.image_folder / on_disk).resolve())


@pytest.mark.parametrize(
    "on_disk, listed, words",
    [
        # c/b.jpg is listed by its exact name, so b.jpg can only mean a/b.jpg
        (["a/b.jpg", "c/b.jpg"], ["b.jpg", "c/b.jpg"], None),
        (["a/b.jpg", "c/b.jpg"], ["b.jpg", "z.jpg"], "2 images match the name: a/b.jpg, c/b.jpg"),
        (["horse.jpg", "y.jpg"], ["hores.jpg", "y.jpg"], "similar names: horse.jpg"),
        (["b.jpg"], ["b.jpg", "x/b.jpg"], "x/b.jpg does not exist"),  # b.jpg is listed by its exact name
        (["b.jpg"], ["x/b.jpg", "y/b.jpg"], "y/b.jpg does not exist"),  # one image cannot match two entries
        (["b.jpg", "c.jpg"], ["../b.jpg", "c.jpg"], "is outside"),
    ],
)
def test_ambiguous_and_missing_names(tmp_path, on_disk, listed, words):
    if words is None:
        assert named(tmp_path, on_disk, listed).examples[0].file.endswith("a/b.jpg")
        return
    with pytest.raises(InputError, match=words):
        named(tmp_path, on_disk, listed)


def test_links_are_followed(tmp_path):
    root = make_coco(tmp_path / "set", [(64, 48)] * 3)
    store = tmp_path / "store"
    store.mkdir()
    for i in (1, 2):
        shutil.move(root / "train2017" / f"{i}.jpg", store / f"blob{i}")
    (root / "train2017" / "1.jpg").symlink_to(store / "blob1")
    (store / "deep").mkdir()
    (store / "blob2").rename(store / "deep" / "2.jpg")
    (root / "train2017" / "linked").symlink_to(store / "deep")
    (store / "deep" / "again").symlink_to(store)  # a loop
    source = coco_split(root, "train2017", 10)  # 2.jpg is in a linked folder
    assert [source.read(e).size for e in source.examples] == [(64, 48)] * 3
    change(root, lambda c: c["images"][0].update(file_name="../../store/blob1"))
    with pytest.raises(InputError, match="is outside"):
        coco_split(root, "train2017", 10)


@pytest.mark.parametrize("size", [None, (-1, -1), (0, 48), (float("nan"), 48), ("64", "48"), (10**400, 1)])
def test_missing_sizes_are_read_from_the_images(tmp_path, size):
    root = make_coco(tmp_path, [(64, 48), (30, 50), (64.0, 48.0)][:2])

    def edit(content):
        image = content["images"][0]
        image.pop("width"), image.pop("height")
        image.update({} if size is None else dict(zip(("width", "height"), size)))

    change(root, edit)
    source = coco_split(root, "train2017", 10)
    assert source.examples.sizes.tolist() == [[64, 48], [30, 50]]
    (note,) = source.notes
    assert note.startswith("1 images have") and "read from the image files" in note
    assert [(i["width"], i["height"]) for i in source.ground_truth()["images"]] == [(64, 48), (30, 50)]


def test_the_setting_for_wrong_sizes(tmp_path):
    root = make_coco(tmp_path, [(64, 48)] * 2)
    Image.new("RGB", (128, 96)).save(root / "train2017" / "2.jpg")
    source = read(root)
    with pytest.raises(UnreadableImage, match="128x96"):
        source.read(source.examples[1])
    source = read(root, **{"data.sizes": "images"})
    assert source.read(source.examples[1]).size == (128, 96)
    assert source.examples.sizes.tolist() == [[64, 48], [128, 96]]
    assert [n for n in source.notes if n.startswith("the sizes of 1 images differ")]


def test_integral_floats(tmp_path):
    root = make_coco(tmp_path, [(64, 48)] * 2)
    want = coco_split(root, "train2017").examples.fingerprint()

    def edit(content):
        for entry in content["images"] + content["annotations"] + content["categories"]:
            entry.update({k: float(entry[k]) for k in entry.keys() & {"id", "image_id", "category_id", "width"}})

    change(root, edit)
    source = coco_split(root, "train2017")
    assert source.examples.fingerprint() == want and source.notes == ()
    assert type(source.ground_truth()["annotations"][0]["image_id"]) is int


def test_encodings(tmp_path):
    root = make_coco(tmp_path, [(64, 48)])
    path = root / "annotations" / "instances_train2017.json"
    text = path.read_text()
    path.write_text(text, encoding="utf-8-sig")
    assert len(coco_split(root, "train2017").examples) == 1
    wrong = {"is UTF-16": text.encode("utf-16"), "is empty": b" \n", "no list of images .the file contains": b"[]"}
    for words, data in (wrong | {"is not UTF-8": '{"ä": 1}'.encode("latin-1")}).items():
        path.write_bytes(data)
        with pytest.raises(InputError, match=words):
            coco_split(root, "train2017")


def test_annotations_of_images_that_are_not_listed(tmp_path):
    annotations = [box(1, 1, [4, 4, 20, 10]), *(box(i, 50 + i, [4, 4, 5, 5]) for i in range(2, 10))]
    source = coco_split(make_coco(tmp_path, [(64, 48)], annotations=annotations), "train2017")
    assert source.examples.counts.tolist() == [1]
    (note,) = source.notes
    assert note.startswith("8 annotations in") and "image id 52); they are ignored" in note


def test_absent_images_are_skipped_on_request(tmp_path):
    root = make_coco(tmp_path, [(64, 48)] * 3)
    (root / "train2017" / "2.jpg").unlink()
    with pytest.raises(InputError, match=r"image id 2 is listed in .*/2.jpg does not exist"):
        read(root)
    source = read(root, **{"data.on_bad_image": "skip"})
    assert len(source.examples) == 3 and source.notes[0].startswith("1 images listed in")
    with pytest.raises(UnreadableImage, match="does not exist"):
        source.read(source.examples[1])
    change(root, lambda c: c["images"][1].pop("width"))
    assert source.examples.image_ids.tolist() == [1, 2, 3]
    # Image 2 is skipped because its size is unknown.
    assert read(root, **{"data.on_bad_image": "skip"}).examples.image_ids.tolist() == [1, 3]


def test_hidden_files(tmp_path):
    root = make_coco(tmp_path, [(64, 48)] * 2)
    (root / "train2017" / "._1.jpg").write_bytes(b"\0\5\x16\7")
    change(root, lambda c: c["images"].append({"id": 9, "file_name": "._1.jpg", "width": 64, "height": 48}))
    change(root, lambda c: c["annotations"].append(box(9, 9, [1, 1, 5, 5])))
    source = coco_split(root, "train2017")
    assert source.examples.image_ids.tolist() == [1, 2]
    (note,) = source.notes
    assert note.startswith("1 hidden files listed in")


def test_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    make_coco(tmp_path / "mine", [(64, 48)])
    assert len(read("~/mine").examples) == 1


@pytest.mark.parametrize(
    "wanted, present, found",
    [
        ("val", ["train", "valid", "test"], "valid"),
        ("val2017", ["Train", "Validation"], "Validation"),
        ("val", ["train", "test"], "test"),
        ("train2017", ["train2014", "TRAIN"], "TRAIN"),
        ("train", ["default"], "default"),
        ("train", ["trainval", "test"], "trainval"),
        ("trainval", ["train", "trainval"], "trainval"),
        ("minival", ["minival", "val"], "minival"),
        ("test", ["train", "val"], None),
        ("minival", ["train", "val"], None),
        ("train", ["val"], None),
        ("val", ["default"], None),
    ],
)
def test_finding_a_split(wanted, present, found):
    if found is None:
        with pytest.raises(MissingSplit, match=f"the split {wanted} does not exist in here; it has {present[0]}"):
            choose(wanted, present, "here")
    else:
        name, notes = choose(wanted, present, "here")
        assert name == found and bool(notes) == (found in ("test", "default"))


@pytest.mark.parametrize("folder", ["train", "images/Training", "train2017"])
def test_images_in_a_folder_named_after_a_synonym_of_the_split(tmp_path, folder):
    """If the annotation file is specified, the image folder's name may be a synonym of the split's name."""
    root = make_coco(tmp_path, [(64, 48)] * 2)
    (root / "images").mkdir()
    (root / "train2017").rename(root / folder)
    file = (root / "annotations" / "instances_train2017.json").rename(root / "boxes.json")
    source = read(root, **{"data.train_annotations": str(file), "data.train_split": "train2017"})
    assert [e.file for e in source.examples] == [str(root / folder / f"{i}.jpg") for i in (1, 2)]
