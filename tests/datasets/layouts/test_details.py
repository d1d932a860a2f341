"""Details of individual layouts: polygons, images without objects, difficult objects, numbered categories, errors."""

import json
from pathlib import Path

import made_layouts
import numpy as np
import pytest
from made_layouts import NAMES
from PIL import Image

from yolos_jax.datasets.examples import read_split
from yolos_jax.datasets.opening import find_split, recognise
from yolos_jax.datasets.settings import SplitOptions
from yolos_jax.errors import InputError


def read(root, split="train", complain=None, **more):
    more |= {"complain": complain} if complain else {}
    return read_split(find_split(Path(root), split), SplitOptions(categories="contiguous"), **more)


def image(path, size=(100, 50), **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, **more)


def test_roboflow_root_category_is_dropped_unless_used(tmp_path):
    root = made_layouts.roboflow(tmp_path, made_layouts.made())
    source = read(root)
    assert source.label_names == dict(enumerate(NAMES)) and "'animals'" in source.notes[0]
    path = root / "train" / "_annotations.coco.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = 0
    path.write_text(json.dumps(content))
    assert read(root).num_classes == 4 and read(root).notes == ()


@pytest.fixture
def yolo(tmp_path):
    """A YOLO data set of two images, of which the second has no label file."""
    for name in ("a", "b"):
        image(tmp_path / "images" / "train" / f"{name}.jpg")
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [x, y]\n")
    return tmp_path


def test_polygons_backgrounds_and_duplicates(yolo):
    lines = "1 0.1 0.2 0.5 0.2 0.4 0.8\n0 0.5 0.5 0.2 0.4\n0 0.5 0.5 0.2 0.4\n"
    (yolo / "labels" / "train" / "a.txt").write_text(lines)
    source = read(yolo)
    np.testing.assert_allclose(source.examples[0].boxes, [[10, 10, 50, 40], [40, 15, 60, 35]], atol=1e-5)
    assert source.examples[0].labels.tolist() == [1, 0] and source.examples.counts.tolist() == [2, 0]
    where = str(yolo / "images" / "train")  # notes name the folder, because the splits share data.yaml
    assert all(where in note for note in source.notes)
    counts = ["1 of 2 images in", "converted 1 polygon", "ignored 1 duplicate line"]
    assert [count in note for count, note in zip(counts, source.notes, strict=True)] == [True] * 3


def test_keypoints_after_the_box_are_ignored(yolo):
    (yolo / "data.yaml").write_text("train: images/train\nnames: {0: x, 3: y}\nkpt_shape: [1, 2]\n")
    (yolo / "labels" / "train" / "a.txt").write_text("3 0.5 0.5 0.2 0.4 0.9 0.9\n")
    source = read(yolo)
    np.testing.assert_allclose(source.examples[0].boxes, [[40, 15, 60, 35]], atol=1e-5)
    assert source.label_names == {0: "x", 1: "y"} and source.category_ids == (0, 3)


@pytest.mark.parametrize(
    "line, words",
    [
        ("0 0.5 0.5 0.2", "must contain a class and 4 numbers"),
        ("0 0.5 0.5 0.2 0.4 0.9", "must contain a class and 4 numbers"),
        ("x 0.5 0.5 0.2 0.4", "must contain a class and 4 numbers"),
        ("0 nan 0.5 0.2 0.4", "must contain a class and 4 numbers"),
        ("2 0.5 0.5 0.2 0.4", "class 2, but there are only 2"),
        ("0 50 25 20 20", "fractions of the image"),
    ],
)
def test_invalid_lines(yolo, line, words):
    (yolo / "labels" / "train" / "a.txt").write_text(f"0 0.5 0.5 0.2 0.4\n{line}\n")
    with pytest.raises(InputError, match=words):
        read(yolo)
    said = []
    assert read(yolo, complain=said.append).examples.counts.tolist() == [1, 0]
    assert len(said) == 1 and "a.txt" in said[0]


def test_lists_of_files_and_paths(yolo, tmp_path):
    (yolo / "labels" / "train" / "b.txt").write_text("1 0.5 0.5 1 1\n")
    (yolo / "lists").mkdir()
    (yolo / "lists" / "train.txt").write_text(f"./images/train/b.jpg\n{yolo}/images/train/a.jpg\n")
    (yolo / "data.yaml").write_text(f"path: {yolo}\ntrain: lists/train.txt\nnames: [x, y]\n")
    source = read(yolo)
    assert [Path(e.file).stem for e in source.examples] == ["b", "a"]
    assert source.examples[0].boxes.tolist() == [[0, 0, 100, 50]]
    (yolo / "data.yaml").write_text("path: /nowhere\ntrain: [images/train, absent]\nnames: [x]\n")
    with pytest.raises(InputError, match="absent, listed in .*data.yaml, does not exist"):
        read(yolo)


def test_classes_without_a_yaml(yolo):
    (yolo / "data.yaml").unlink()
    (yolo / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 1 1\n")
    with pytest.raises(InputError, match="no file with the class names; write a data.yaml"):
        read(yolo)
    (yolo / "classes.txt").write_text("x\ny\n")
    assert read(yolo).label_names == {0: "x", 1: "y"}


def test_fractions_refer_to_the_upright_image(yolo):
    exif = Image.Exif()
    exif[0x0112] = 6
    image(yolo / "images" / "train" / "a.jpg", (100, 50), exif=exif)
    (yolo / "labels" / "train" / "a.txt").write_text("0 0.5 0.25 1 0.5\n")
    source = read(yolo)
    assert source.examples.sizes.tolist() == [[50, 100], [100, 50]]
    assert source.read(source.examples[0]).size == (50, 100)
    assert source.examples[0].boxes.tolist() == [[0, 0, 50, 50]]


def test_hidden_images_are_ignored(yolo):
    (yolo / "images" / "train" / "._a.jpg").write_bytes(b"x")
    (yolo / "images" / "train" / "c.raw").write_bytes(b"x")
    (yolo / "images" / "train" / "labels.cache").write_bytes(b"x")  # written by ultralytics
    source = read(yolo)
    assert len(source.examples) == 2
    assert source.notes[0].startswith(f"skipped in {yolo}/images/train: 1 other file (.raw 1), 1 hidden file, for")


def test_images_without_annotations_are_counted(tmp_path):
    """Folders with XML files or with metadata.jsonl are tested. Images in other splits are not counted."""
    data = made_layouts.made()
    flat, folder = made_layouts.voc_flat(tmp_path / "flat", data), made_layouts.imagefolder(tmp_path / "folder", data)
    assert not read(flat).notes and not read(folder).notes
    image(flat / "train" / "more.jpg")
    (note,) = read(flat).notes
    assert note == f"1 images in {flat}/train have no XML file and are skipped: more"
    image(folder / "train" / "more.avif", format="AVIF")
    (folder / "train" / "train0.jpg.bak").write_bytes(b"")
    left, unlisted = read(folder).notes
    assert left == f"skipped in {folder}/train: 1 other file (.bak 1), for example {folder}/train/train0.jpg.bak"
    assert unlisted == f"skipped 1 image not listed in {folder}/train/metadata.jsonl (for example more.avif)"
    (folder / "train" / "metadata.jsonl").rename(folder / "metadata.jsonl")
    for file in (folder / "train").glob("*.jpg"):
        file.rename(folder / file.name)
    assert read(folder).notes[-1].endswith(".jsonl (for example train/more.avif)")


def xml(name, difficult=0, corners=(11, 21, 30, 40)):
    inside = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners))
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{inside}</bndbox>{part}</object>"


def voc(root, objects, size="<size><width>100</width><height>50</height></size>", start=""):
    image(root / "JPEGImages" / "p.jpg")
    (root / "Annotations").mkdir(exist_ok=True)
    text = f"{start}<annotation><filename>p.jpg</filename>{size}{objects}</annotation>"
    (root / "Annotations" / "p.xml").write_text(text)
    return root


def test_voc_coordinates_and_difficult_objects(tmp_path):
    source = read(voc(tmp_path, xml("dog") + xml("cat", 1)))
    assert source.examples[0].boxes.tolist() == [[10, 20, 30, 40]]
    assert source.label_names == {0: "cat", 1: "dog"} and source.examples[0].labels.tolist() == [1]
    assert source.dropped["crowd"] == 1 and "1 difficult objects" in source.notes[1] and "difficult" in source.notes[1]
    truth = source.ground_truth()["annotations"]
    assert [(a.get("difficult"), a["iscrowd"]) for a in truth] == [(None, 0), (1, 1)]


def test_voc_years_are_joined(tmp_path):
    devkit, boxes = tmp_path / "VOCdevkit", (made_layouts.Box("ant", (1, 2, 9, 12)),)
    for year, stem in (("VOC2007", "a"), ("VOC2012", "b")):
        data = {split: [made_layouts.Picture(f"{stem}{split}", (30, 20), boxes)] for split in ("train", "val")}
        made_layouts.voc(tmp_path / year, data)
        devkit.mkdir(exist_ok=True)
        (tmp_path / year / "VOC2007").rename(devkit / year)
    for root in (tmp_path, devkit):
        source = read(root)
        assert [Path(e.file).stem for e in source.examples] == ["atrain", "btrain"]
        assert source.read(source.examples[1]).size == (30, 20) and "combines" in source.notes[0]
    assert [Path(e.file).stem for e in read(tmp_path, "VOC2012/val").examples] == ["bval"]


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    "objects, start, words",
    [
        ("<object><name>x</name></object>", "", "no name or no bndbox"),
        (xml("dog", corners=("a", 1, 2, 3)), "", "xmin is 'a'; it must be a number"),
        (xml("dog", corners=(9, 1, 2, 3)), "", "xmax < xmin"),
        ("<object>", "", "cannot be read .*mismatched tag"),
        (xml("&b;"), BOMB, "cannot be read .*Entit"),
    ],
)
def test_invalid_xml(tmp_path, objects, start, words):
    with pytest.raises(InputError, match=words):
        read(voc(tmp_path, objects, start=start))


def test_missing_sizes_in_xml(tmp_path):
    source = read(voc(tmp_path, xml("dog"), size=""))
    assert source.examples.sizes.tolist() == [[100, 50]] and "read from the image files" in source.notes[-1]


def test_numbered_categories_and_empty_objects(tmp_path):
    for name in ("a", "b", "c"):
        image(tmp_path / f"{name}.jpg")
    lines = [
        {"file_name": "a.jpg", "objects": {"bbox": [[1, 2, 3, 4]], "categories": [5], "area": [7]}},
        {"file_name": "b.jpg", "objects": {"bbox": [], "categories": []}},
        {"file_name": "c.jpg", "objects": [{"bbox": [1, 2, 3, 4], "category": 2}]},
    ]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = read(tmp_path)
    assert source.label_names == {0: "2", 1: "5"} and source.examples.counts.tolist() == [1, 0, 1]
    assert source.examples[0].area.tolist() == [7] and "no names" in source.notes[0]
    (tmp_path / "metadata.jsonl").write_text(json.dumps(lines[0]) + '\n{"file_name": "b.jpg"}\n')
    with pytest.raises(InputError, match="line 2 of .*metadata.jsonl"):
        read(tmp_path)
    lines[0]["objects"]["categories"] = []
    (tmp_path / "metadata.jsonl").write_text(json.dumps(lines[0]) + "\n")
    with pytest.raises(InputError, match="same length|has no categories"):
        read(tmp_path)


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("annotations.xml", "<annotations><image id='0'/></annotations>", "CVAT XML.*COCO 1.0"),
        ("a.json", '{"shapes": [], "imagePath": "a.jpg"}', "labelme2coco "),
        (
            "export.json",
            '[{"annotations": [{"result": [{"value": {"rectanglelabels": []}}]}]}]',
            "-converter export -i",
        ),
        ("boxes.csv", "ImageID,Source,LabelName,Confidence,XMin,XMax", "fiftyone convert --input-dir"),
        ("set.zip", "PK", "unpack it"),
        ("notes.txt", "", "not in any of the supported layouts .*notes.txt"),
    ],
)
def test_errors_for_unsupported_layouts_name_a_converter(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        recognise(tmp_path)


def test_a_label_studio_export_next_to_other_files(tmp_path):
    data = made_layouts.made()
    for picture in data["train"]:
        made_layouts.save(tmp_path / "images" / f"{picture.stem}.jpg", picture.size)
    content = made_layouts.content(data["train"], {"ant": 0, "bee": 1, "cat": 2}, "images\\{}.jpg")
    for name in ("result.json", "result_old.json"):
        (tmp_path / name).write_text(json.dumps(content))
    source = read(tmp_path)
    assert len(source.examples) == 4 and source.origin.endswith("result.json")
    assert "one split, result, which is used for training" in source.notes[0]
