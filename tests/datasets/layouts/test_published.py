"""The layouts of published data sets: LVIS, Objects365, Open Images, VisDrone, WIDER FACE, DOTA and CrowdHuman."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from yolos_jax.datasets.examples import read_split
from yolos_jax.datasets.opening import find_split, recognise
from yolos_jax.datasets.settings import SplitOptions
from yolos_jax.errors import InputError

SIZE = 100, 50


def read(root, split="train", complain=None, **options):
    more = {"complain": complain} if complain else {}
    return read_split(find_split(Path(root), split), SplitOptions(categories="contiguous", **options), **more)


def image(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def named_boxes(source, place=0):
    """The boxes of an image, as (class name, x0, y0, x1, y1)."""
    example = source.examples[place]
    return [(source.label_names[i], *box) for i, box in zip(example.labels.tolist(), example.boxes.tolist())]


def crowds(source):
    return [a for a in source.ground_truth()["annotations"] if a["iscrowd"]]


def coco(urls, key="coco_url", **more):
    images = [{"id": i, key: url, "width": 100, "height": 50} | more for i, url in enumerate(urls, 1)]
    boxes = [{"id": i, "image_id": i, "category_id": 2, "bbox": [10, 5, 20 * i, 30], "area": 500} for i in (1, 2)]
    return {"images": images, "annotations": boxes, "categories": [{"id": 2, "name": "ant"}, {"id": 9, "name": "bee"}]}


@pytest.mark.parametrize("inside", ["", "images"])
def test_lvis_images_are_found_by_their_urls(tmp_path, inside):
    """The images of an LVIS split are in two COCO folders."""
    urls = [f"http://images.cocodataset.org/{name}" for name in ("train2017/1.jpg", "val2017/2.jpg")]
    for url in urls:
        image(tmp_path / inside / "/".join(url.split("/")[-2:]))
    lvis = {"neg_category_ids": [9], "not_exhaustive_category_ids": []}
    for split in ("train", "val"):
        # As in the published files, the start and the end of the file do not show that it is in COCO format.
        content = {"info": {"description": "x" * 2**17}} | coco(urls, **lvis) | {"licenses": ["x" * 2**17]}
        write(tmp_path / "annotations" / f"lvis_v1_{split}.json", json.dumps(content))
    for split in ("train2017", "val2017"):
        source = read(tmp_path, split)
        (note,) = source.notes
        assert note.startswith("LVIS is scored with the COCO")
        assert "lvis_v1_" in source.origin
        assert [Path(e.file).parts[-2:] for e in source.examples] == [("train2017", "1.jpg"), ("val2017", "2.jpg")]
        assert named_boxes(source, 1) == [("ant", 10, 5, 50, 35)] and source.examples[1].area.tolist() == [500]
        assert [i["file_name"] for i in source.ground_truth()["images"]] == ["train2017/1.jpg", "val2017/2.jpg"]


def test_coco_takes_precedence_over_lvis(tmp_path):
    """LVIS files are read only if they are specified explicitly."""
    image(tmp_path / "train2017" / "1.jpg")
    image(tmp_path / "train2017" / "2.jpg")
    write(tmp_path / "annotations" / "instances_train2017.json", json.dumps(coco(["1.jpg", "2.jpg"], "file_name")))
    lvis = tmp_path / "annotations" / "lvis_v1_train.json"
    write(lvis, json.dumps(coco(["http://h/train2017/1.jpg", "http://h/train2017/2.jpg"], neg_category_ids=[])))
    assert len(read(tmp_path).examples) == 2 and not read(tmp_path).notes
    opened = find_split(tmp_path, "train", str(lvis), str(tmp_path / "train2017"))
    source = read_split(opened, SplitOptions(categories="contiguous"))
    assert [Path(e.file).name for e in source.examples] == ["1.jpg", "2.jpg"]
    assert "different spelling" in source.notes[0]


@pytest.mark.parametrize("names", [
    ("annotations/zhiyuan_objv2_train.json", "images/v1/patch8/obj365_1.jpg", "train/patch8/obj365_1.jpg"),
    ("objects365_train.json", "obj365_train_1.jpg", "train/obj365_train_1.jpg"),
    ("annotations/openimages_v6_train.json", "00/1.jpg", "train/00/1.jpg"),
])  # fmt: skip
def test_objects365_and_open_images_in_coco_format(tmp_path, names):
    file, listed, path = names
    image(tmp_path / path)
    content = coco([listed, "absent.jpg"], "file_name")
    order = ("images", "categories", "annotations")  # puts the last key far from the end of the file
    content["annotations"] += [content["annotations"][0] | {"id": i} for i in range(3, 1500)]
    write(tmp_path / file, json.dumps({key: content[key] for key in order}))
    wrong = []
    source = read(tmp_path, complain=wrong.append)
    assert [e.file for e in source.examples] == [str(tmp_path / path)] and len(named_boxes(source)) == 1498
    assert len(wrong) == 1 and "absent.jpg does not exist" in wrong[0]


VISDRONE = """10,5,20,30,1,4,0,1
0,0,40,10,0,0,0,0
60,20,10,5,0,1,0,0
70,1,5,5,0,11,0,0
30,40,8,9,1,10,0,2,
"""


def visdrone(root, text=VISDRONE):
    for split in ("train", "val"):
        folder = root / f"VisDrone2019-DET-{split}"
        for name in ("b", "a"):
            image(folder / "images" / f"{name}.jpg")
            write(folder / "annotations" / f"{name}.txt", text if name == "b" else "")
    return root


def test_visdrone(tmp_path):
    source = read(visdrone(tmp_path), "train2017")
    assert source.layout == "VisDrone" and source.num_classes == 10
    assert [Path(e.file).name for e in source.examples] == ["a.jpg", "b.jpg"]
    assert source.examples.counts.tolist() == [0, 2]
    assert named_boxes(source, 1) == [("car", 10, 5, 30, 35), ("motor", 30, 40, 38, 49)]
    assert source.examples[1].area.tolist() == [600, 72]
    ignored = crowds(source)  # an ignored region, once for each category, and a pedestrian
    assert sorted(a["category_id"] for a in ignored if a["bbox"] == [0, 0, 40, 10]) == list(range(1, 11))
    assert [a["category_id"] for a in ignored if a["bbox"] == [60, 20, 10, 5]] == [1] and len(ignored) == 11
    assert len(source.notes) == 2 and "1 ignored regions" in source.notes[0] and '1 "others" objects' in source.notes[1]
    image(tmp_path / "VisDrone2019-DET-val" / "images" / "c.jpg")
    assert read(tmp_path, "val").notes[-1].endswith("VisDrone2019-DET-val/images without a text file (for example c)")
    assert len(read(tmp_path / "VisDrone2019-DET-val", "val").examples) == 2


@pytest.mark.parametrize(
    "line", ["1,2,3", "1,2,3,4,1,12,0,0", "1,2,-3,4,1,1,0,0", "1,2,3,4,nan,1,0,0", "a,2,3,4,1,1,0,0"]
)
def test_invalid_lines_of_visdrone(tmp_path, line):
    root, wrong = visdrone(tmp_path, f"{VISDRONE}{line}\n"), []
    source = read(root, complain=wrong.append)
    assert len(wrong) == 1 and "line 6 of" in wrong[0] and "b.txt" in wrong[0]
    assert source.examples.counts.tolist() == [0, 2]
    with pytest.raises(InputError, match="it must be left,top,width,height,score,category"):
        read(root)


WIDER = """0--Parade/a.jpg
2
10 5 20 30 0 0 0 0 0 0
60 20 10 5 2 0 0 1 0 0
0--Parade/0_Parade_b 1.jpg
0
0 0 0 0 0 0 0 0 0 0
1--Handshaking/c.jpg
1
1 2 3 4 0 0 0 0 2 1
"""


def wider(root, text=WIDER):
    for name in ("0--Parade/a.jpg", "0--Parade/0_Parade_b 1.jpg", "1--Handshaking/c.jpg"):
        image(root / "WIDER_train" / "images" / name)
    write(root / "wider_face_split" / "wider_face_train_bbx_gt.txt", text)
    return root


def test_wider_face(tmp_path):
    source = read(wider(tmp_path))
    assert source.layout == "WIDER FACE" and source.examples.counts.tolist() == [1, 0, 1]
    assert named_boxes(source) == [("face", 10, 5, 30, 35)] and named_boxes(source, 2) == [("face", 1, 2, 4, 6)]
    assert [a["bbox"] for a in crowds(source)] == [[60, 20, 10, 5]] and "1 invalid faces" in source.notes[0]


@pytest.mark.parametrize("text, words", [
    (WIDER.replace("\n2\n", "\ntwo\n"), "line 2 of .* is 'two'; it must be the number of faces"),
    (WIDER.replace("60 20 10 5", "60 20 10"), "line 4 of .*; a face must have ten numbers"),
    (WIDER.replace("1 2 3 4", "1 2 3 -4"), "line 10 of .*; a face must have ten numbers"),
    (WIDER.replace("\n2\n", "\n1\n"), "line 4 of .*; it must be the name of an image"),
    (WIDER.replace("\n1\n", "\n2\n"), "ends before its last face; a face"),
])  # fmt: skip
def test_invalid_lines_of_wider_face(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        read(wider(tmp_path, text))


def test_dota(tmp_path):
    """Checks axis-aligned boxes, difficult objects, categories from both splits, and use of the newest labels."""
    for split in ("train", "val"):
        image(tmp_path / split / "images" / "P1.png")
        write(tmp_path / split / "labelTxt-v1.0" / "labelTxt" / "P1.txt", "1 1 2 1 2 2 1 2 old 0")
    text = (
        "imagesource:GoogleEarth\ngsd:null\n20 5 30.5 15 20 25 9.5 15 {} 0\n40 10 50 10 50 20 40 20 small-vehicle 1\n"
    )
    write(tmp_path / "train" / "labelTxt-v1.5" / "P1.txt", text.format("ship"))
    write(tmp_path / "val" / "labelTxt-v1.5" / "P1.txt", text.format("harbor"))
    source = read(tmp_path)
    assert source.layout == "DOTA" and source.label_names == {0: "harbor", 1: "ship", 2: "small-vehicle"}
    assert named_boxes(source) == [("ship", 9.5, 5, 30.5, 25)]
    assert [(a["bbox"], a["category_id"]) for a in crowds(source)] == [([40, 10, 10, 10], 2)]
    assert "axis-aligned bounding boxes" in source.notes[0] and "1 difficult objects" in source.notes[1]
    (tmp_path / "train" / "images" / "part1").mkdir()
    (tmp_path / "train" / "images" / "P1.png").rename(tmp_path / "train" / "images" / "part1" / "P1.png")
    assert read(tmp_path).examples[0].file.endswith("part1/P1.png")
    write(tmp_path / "train" / "labelTxt-v1.5" / "P1.txt", text.format("ship") + "1 2 3 4 ship 0\n")
    with pytest.raises(InputError, match=r"line 5 of .*P1.txt is '1 2 3 4 ship 0'; it must have four corners"):
        read(tmp_path)


def person(box, tag="person", **more):
    return {"tag": tag, "fbox": box, "hbox": [1, 1, 2, 2], "vbox": [0, 0, 1, 1], "head_attr": {}} | more


def crowdhuman(root, lines):
    for split in ("train", "val"):
        write(root / f"annotation_{split}.odgt", "\n".join(map(json.dumps, lines)))
    return root


def test_crowdhuman(tmp_path):
    people = [person([-10, 5, 30, 60], extra={"box_id": 0}), person([50, 10, 5, 5], extra={"ignore": 1})]
    lines = [{"ID": "27,a0", "gtboxes": [*people, person([1, 1, 9, 9], "mask")]}, {"ID": "28,b0", "gtboxes": []}]
    for line in lines:
        image(tmp_path / "Images" / f"{line['ID']}.jpg")
    source = read(crowdhuman(tmp_path, lines))
    assert source.layout == "CrowdHuman" and source.examples.counts.tolist() == [1, 0]
    assert named_boxes(source) == [("person", 0, 5, 20, 50)] and source.clipped == 1  # clipped to the image
    np.testing.assert_array_equal(source.examples[0].area, [1800])  # the area of the box before clipping
    assert [a["bbox"] for a in crowds(source)] == [[50, 10, 5, 5], [1, 1, 9, 9]] and "2 masks" in source.notes[1]
    people = ([{"tag": "person"}], [7], [person([1, 2, 3])], [person([1, 2, -3, 4])])
    for wrong in ([], {"ID": "x"}, *({"ID": "x", "gtboxes": boxes} for boxes in people)):
        with pytest.raises(InputError, match=r"line 3 of .*annotation_train.odgt is .*it must be JSON with ID"):
            read(crowdhuman(tmp_path, [*lines, wrong]))


@pytest.mark.parametrize("make, file", [
    (visdrone, "VisDrone2019-DET-train/annotations/b.txt"), (wider, "wider_face_split/wider_face_train_bbx_gt.txt"),
    (lambda root: crowdhuman(root, []), "annotation_train.odgt"),
])  # fmt: skip
def test_text_that_is_not_utf_8_is_reported(tmp_path, make, file):
    make(tmp_path)
    image(tmp_path / "Images" / "a.jpg")
    (tmp_path / file).write_bytes(b"1,2,3 \xff\xfe\n")
    with pytest.raises(InputError, match=f"{file} .*UTF-8"):
        read(tmp_path)


def test_visdrone_and_wider_face_match_only_one_layout(tmp_path):
    for name, make in (("VisDrone", visdrone), ("WIDER FACE", wider)):
        (tmp_path / name).mkdir()
        found, splits, notes = recognise(make(tmp_path / name))
        assert found == name and "train" in splits and not notes
