"""Damaged files in every layout: the error message names the file, nothing hangs, and no split is silently lost."""

import json
import os

import made_layouts
import pytest

from yolos_jax.datasets.examples import read_split
from yolos_jax.datasets.opening import find_split, recognise
from yolos_jax.datasets.plain_yaml import read_yaml
from yolos_jax.datasets.settings import SplitOptions
from yolos_jax.errors import InputError


def pipe(file):
    file.unlink()
    os.mkfifo(file)


def loop(file):
    file.unlink()
    file.symlink_to(file.name)


def folder(file):
    file.unlink()
    file.mkdir()


def bad_byte(file):
    file.write_bytes(file.read_bytes() + b"\xb2")


def refused(root, split="train"):
    """Reads a split and returns the error message."""
    with pytest.raises(InputError) as found:
        read_split(find_split(root, split), SplitOptions())
    return str(found.value)


def complained(root, split="train"):
    """Reads a split, skipping invalid entries; returns the number of images and the messages about these entries."""
    found: list[str] = []
    return len(read_split(find_split(root, split), SplitOptions(), found.append).examples), found


SAID = {pipe: "is a named pipe", loop: "is a link to itself", folder: "is a folder", bad_byte: "byte 0xb2"}


@pytest.mark.parametrize("harm", SAID)
@pytest.mark.parametrize("layout, name", [
    ("voc", "VOC2007/ImageSets/Main/train.txt"), ("yolo", "labels/train/train1.txt"), ("yolo", "data.yaml"),
    ("imagefolder", "train/metadata.jsonl"), ("fiftyone", "train/labels.json"),
    ("coco", "annotations/instances_train.json"),
])  # fmt: skip
def test_unreadable_files_are_reported(tmp_path, layout, name, harm):
    root = made_layouts.LAYOUTS[layout](tmp_path / "set", made_layouts.made())
    harm(root / name)
    said = refused(root)
    assert name in said and SAID[harm] in said and "\n" not in said


@pytest.mark.parametrize("harm", [pipe, loop])
def test_unreadable_xml_files_are_skipped_with_a_message(tmp_path, harm):
    root = made_layouts.voc(tmp_path / "set", made_layouts.made())
    harm(root / "VOC2007" / "Annotations" / "train1.xml")
    images, found = complained(root)
    assert images == 3 and len(found) == 1 and "train1.xml" in found[0] and SAID[harm] in found[0]


def test_an_xml_file_in_an_unknown_encoding(tmp_path):
    root = made_layouts.voc(tmp_path / "set", made_layouts.made())
    file = root / "VOC2007" / "Annotations" / "train1.xml"
    file.write_text('<?xml version="1.0" encoding="nothing"?>' + file.read_text())
    assert complained(root)[1] == [f"{file} cannot be read (unknown encoding: nothing); repair or remove it."]


@pytest.mark.parametrize("layout, name", [
    ("voc", "VOC2007/ImageSets/Main/val.txt"), ("voc_flat", "val/val0.xml"),
])  # fmt: skip
def test_a_voc_split_is_found_even_if_its_first_file_is_damaged(tmp_path, layout, name):
    root = made_layouts.LAYOUTS[layout](tmp_path / "set", made_layouts.made())
    (root / name).write_text("k")
    assert {"train", "val"} <= set(recognise(root)[1])
    assert name in refused(root, "val") and len(read_split(find_split(root, "train"), SplitOptions()).examples) == 4


def test_class_names_in_another_encoding(tmp_path):
    root = made_layouts.yolo(tmp_path / "set", made_layouts.made())
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_bytes("蚂蚁\n蜜蜂\n猫\n".encode("gbk"))
    assert "classes.txt is not UTF-8 (byte 0xc2 at offset 0, line 1)" in refused(root)


def test_a_list_of_images_in_data_yaml(tmp_path):
    root = made_layouts.yolo(tmp_path / "set", made_layouts.made())
    (root / "data.yaml").write_text("train: list.txt\nval: images/val\nnames: [ant, bee, cat]\n")
    (root / "list.txt").write_bytes(b"\xef\xbb\xbfimages/train/train0.jpg\nimages/train/train1.jpg\n")
    assert len(read_split(find_split(root, "train"), SplitOptions()).examples) == 2
    bad_byte(root / "list.txt")
    assert "list.txt is not UTF-8" in refused(root)


def test_labels_without_an_image_are_counted(tmp_path):
    root = made_layouts.yolo(tmp_path / "set", made_layouts.made())
    assert not read_split(find_split(root, "train"), SplitOptions()).notes
    folder(root / "images" / "train" / "train1.jpg")
    (root / "labels" / "train" / "classes.txt").write_text("ant")
    note = f"1 label files have no image and are skipped (for example {root}/labels/train/train1.txt)"
    assert note in read_split(find_split(root, "train"), SplitOptions()).notes


@pytest.mark.parametrize("harm", [pipe, bad_byte, lambda file: file.write_text(""), lambda file: file.write_text("{")])
@pytest.mark.parametrize("layout, name", [("imagefolder", "train/metadata.jsonl"), ("coco", "annotations/train.json")])
def test_no_split_is_lost_when_a_data_set_is_converted(tmp_path, call, layout, name, harm):
    root = made_layouts.LAYOUTS[layout](tmp_path / "set", made_layouts.made())
    for split in ("train", "val") if layout == "coco" else ():  # names that no layout recognises
        (root / "annotations" / f"instances_{split}.json").rename(root / "annotations" / f"{split}.json")
    harm(root / name)
    code, _, error = call("convert_data", root, "--out", tmp_path / "out")
    assert code == 2 and name in error and error.count("\n") == 1


def test_another_layout_is_recognised_despite_an_invalid_data_yaml(tmp_path):
    root = made_layouts.coco(tmp_path / "set", made_layouts.made())
    (root / "data.yaml").write_text("[" * 9)
    layout, splits, notes = recognise(root)
    assert layout == "COCO" and set(splits) == {"train", "val"} and "data.yaml cannot be read as YAML" in notes[0]


def test_yaml_size_is_checked_before_expansion(tmp_path):
    file = tmp_path / "data.yaml"
    file.write_text("names: &n {0: ant, 1: [a, {b: c}]}\nagain: *n\nmore: {<<: *n, 2: bee}\n")
    names = {0: "ant", 1: ["a", {"b": "c"}]}
    assert read_yaml(file) == {"names": names, "again": names, "more": names | {2: "bee"}}
    many = ["l0: &l0 [x, x, x, x, x, x, x, x, x]"]
    many += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 9)]
    chain = ["l0: &l0 [x]", *(f"l{i}: &l{i} [*l{i - 1}]" for i in range(1, 100))]
    bad = {"[" * 20_000: "deeper than 50", "\n".join(many): "more than 1000000 values", "- " * 5000: "deeper than 50"}
    bad |= {"\n".join(chain): "deeper than 50", "names: &n [*n]": "refers to itself"}
    bad |= {"a: !!timestamp x": "has no attribute", "a: 2020-13-45": "month must be in", "a: [": "in line 2"}
    for text, said in bad.items():
        file.write_text(text)
        with pytest.raises(InputError, match=f"data.yaml cannot be read as YAML .*{said}"):
            read_yaml(file)


ONE = {"bbox": [[1, 2, 3, 4]], "category": ["ant"]}


@pytest.mark.parametrize("objects, said", [
    (5, "has objects 5; they must have bbox"), ([5], "has 5 among its objects"), ("ant", "has objects 'ant'"),
    (ONE | {"category": [1.5]}, "has category 1.5; it must be a name or an integer"),
    (ONE | {"category": 1}, "has category 1; it must be a list"), (ONE | {"bbox": 3}, "has bbox 3; it must be a list"),
    (ONE | {"bbox": [3]}, "has bbox 3; it must be a box"), (ONE | {"area": 9}, "has area 9; it must be a list"),
    (ONE | {"area": ["x"]}, "has area 'x'; it must be a number"),
    (ONE | {"iscrowd": 0}, "has iscrowd 0; it must be a list"),
    (ONE | {"iscrowd": [[]]}, "has iscrowd []; it must be 0 or 1"),
    ([{"bbox": 1, "category": 1}], "has bbox 1; it must be a box"),
])  # fmt: skip
def test_invalid_types_in_objects(tmp_path, objects, said):
    root = made_layouts.imagefolder(tmp_path / "set", made_layouts.made())
    file = root / "train" / "metadata.jsonl"
    lines = file.read_text().splitlines()
    lines[1] = json.dumps({"file_name": "train1.jpg", "objects": objects})
    file.write_text("\n".join(lines))
    assert f"line 2 of {file} {said}" in refused(root)


def test_integral_floats_are_valid_category_numbers(tmp_path):
    root = made_layouts.imagefolder(tmp_path / "set", made_layouts.made())
    for split in ("train", "validation"):
        file = root / split / "metadata.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            line["objects"]["category"] = [float(made_layouts.NAMES.index(n)) for n in line["objects"]["category"]]
        file.write_text("\n".join(map(json.dumps, lines)))
    found = read_split(find_split(root, "train"), SplitOptions())
    assert found.label_names == {0: "0", 1: "1", 2: "2"} and found.examples[0].labels.tolist() == [0, 1, 2]
