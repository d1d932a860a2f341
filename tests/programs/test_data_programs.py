"""Runs `convert_data` and `check_data` on every layout, in this process."""

import json
from pathlib import Path

import made_layouts
import numpy as np
import pytest
from made_coco import box, coco_split, make_coco
from made_layouts import LAYOUTS
from made_tfds import make_tfds
from PIL import Image

SMALL = ["--config=configs/finetune_custom.py", "--config.train.batch_size=2", "--config.data.short_side=48"]
SMALL += ["--config.data.scales=(32, 48)", "--config.data.crop_sides=(48,)", "--config.data.crop_range=(32, 64)"]


def facts(source):
    """The content of a source, keyed by image name, for comparisons."""
    names = source.label_names
    return {
        Path(e.file).stem: (e.width, e.height, [names[i] for i in e.labels.tolist()], e.boxes.round(3).tolist())
        for e in source.examples
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_converts_every_layout_to_coco(layout, tmp_path, call):
    data = made_layouts.made(2)
    root, out = LAYOUTS[layout](tmp_path / "set", data), tmp_path / "coco"
    code, text, _ = call("convert_data", root, "--out", out)
    assert code == 0 and f"written: {out}" in text
    want = made_layouts.coco(tmp_path / "want", data)
    for split in ("train", "val"):
        found = coco_split(out, split, categories="contiguous")
        assert facts(found) == facts(coco_split(want, split, categories="contiguous"))
        assert f"{len(data[split])} images, {sum(len(p.boxes) for p in data[split])} boxes, as {split}" in text
        assert all(Path(e.file).is_symlink() for e in found.examples)
        assert found.read(found.examples[0]).size == data[split][0].size
    code, _, error = call("convert_data", root, "--out", out)
    assert code == 2 and "not an empty folder" in error


def test_copies_and_chosen_splits(tmp_path, call):
    root = made_layouts.roboflow(tmp_path / "set", made_layouts.made())
    code, _, _ = call("convert_data", root, "--out", tmp_path / "out", "--copy", "--splits", "valid")
    assert code == 0 and [p.name for p in (tmp_path / "out").iterdir() if p.name != "annotations"] == ["val"]
    assert not any(p.is_symlink() for p in (tmp_path / "out" / "val").iterdir())
    code, _, error = call("convert_data", root, "--out", tmp_path / "other", "--splits", "val")
    assert code == 2 and "has no split val; it has train, valid" in error


def test_converts_corner_boxes(tmp_path, call):
    """The error for corner boxes suggests --boxes, which converts them to COCO boxes."""
    corners = [box(i, i, [20, 10, 60, 40]) for i in range(1, 5)]
    root = make_coco(tmp_path / "set", [(64, 48)] * 4, "train", corners)
    code, _, error = call("convert_data", root, "--out", tmp_path / "a")
    assert code == 2 and error.rstrip().endswith("Set --boxes xyxy.")
    assert call("convert_data", root, "--out", tmp_path / "b", "--boxes", "xyxy")[0] == 0
    found = json.loads((tmp_path / "b" / "annotations" / "instances_train.json").read_text())
    assert [a["bbox"] for a in found["annotations"]] == [[20, 10, 40, 30]] * 4
    assert set(found["images"][0]) == {"id", "file_name", "width", "height"}


def test_converts_tfds_records(tmp_path, call):
    """Image files are byte-identical; boxes differ only because the records have float32 fractions."""
    coco, records = make_tfds(tmp_path)
    code, text, _ = call("convert_data", records, "--out", tmp_path / "out", "--splits", "validation")
    assert code == 0 and "is TFDS: train, validation" in text and "6 images, 7 boxes, as val" in text
    assert "store integer areas" in text and "set data." not in text
    wanted, found = (json.loads((root / "annotations" / f"instances_{split}.json").read_text())
                     for root, split in ((coco, "val2017"), (tmp_path / "out", "val")))  # fmt: skip
    assert {c["id"]: c["name"] for c in found["categories"]} == {c["id"]: c["name"] for c in wanted["categories"]}
    boxes = {a["id"]: a for a in found["annotations"]}
    for a in wanted["annotations"]:
        b = boxes[a["id"]]
        assert all(b[key] == a[key] for key in ("image_id", "category_id", "iscrowd")) and b["area"] == int(a["area"])
        np.testing.assert_allclose(b["bbox"], a["bbox"], rtol=0, atol=1e-5)
    for image in wanted["images"]:
        name = image["file_name"]
        assert (tmp_path / "out" / "val" / name).read_bytes() == (coco / "val2017" / name).read_bytes()


@pytest.mark.parity
def test_converts_hugging_face_datasets(tmp_path, call):
    pytest.importorskip("datasets")
    data = made_layouts.made()
    root = made_layouts.rows(tmp_path / "set", data, parquet=False)
    assert call("convert_data", root, "--out", tmp_path / "out")[0] == 0
    found = coco_split(tmp_path / "out", "val", categories="contiguous")
    assert [e.boxes.tolist() for e in found.examples] == [[list(b.corners) for b in p.boxes] for p in data["val"]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_check_data_reads_every_layout(layout, tmp_path, call):
    root = LAYOUTS[layout](tmp_path, made_layouts.made(1))
    code, text, error = call("check_data", *SMALL, f"--config.data.root={root}")
    assert code == 0, text + error
    assert text.splitlines()[-1] == "no problems found" and "images          4, 0 of them" in text
    assert len(text.splitlines()) < 40


def test_missing_validation_split(tmp_path, call):
    root = made_layouts.coco(tmp_path, made_layouts.made(train=8))
    (root / "annotations" / "instances_val.json").unlink()
    code, _, error = call("check_data", *SMALL, f"--config.data.root={root}")
    assert code == 2 and "eval.every_epochs=0" in error and "the val split, set by data.val_split" in error
    batch = "--config.train.accumulate=1", "--config.train.batch_size=8"  # one image for each of the 8 devices
    batch += ("--config.init=from_nothing",)
    code, _, error = call("train", *SMALL, *batch, f"--config.data.root={root}", f"--workdir={tmp_path / 'w'}")
    assert code == 2 and "or train without evaluation: --config.eval.every_epochs=0 --config.train.patience=0" in error
    code, text, _ = call("check_data", *SMALL, f"--config.data.root={root}", "--config.eval.every_epochs=0")
    assert code == 0 and "so it is not needed" in text and "val:" not in text


def test_groups_annotations_without_images(tmp_path, call):
    boxes = [box(1, 1, [4, 4, 20, 10]), *(box(i, 50 + i // 2, [4, 4, 5, 5]) for i in range(2, 22))]
    root = make_coco(tmp_path, [(64, 48)] * 3, "train", boxes)
    make_coco(root, [(64, 48)] * 2, "val")
    code, text, _ = call("check_data", *SMALL, f"--config.data.root={root}")
    told = [line for line in text.splitlines() if line.startswith("problem: ")]
    assert code == 1 and len(told) == 6
    assert "annotates image id 51, which is not among its images (2 annotations" in told[0]
    assert "10 annotations of 5 other unlisted image ids" in told[-1]


def test_hidden_files_are_counted(tmp_path, call):
    root = made_layouts.coco(tmp_path, made_layouts.made())
    for name in ("._a.jpg", "._b.jpg"):
        (root / "train" / name).write_bytes(b"\0")
    code, text, _ = call("check_data", *SMALL, f"--config.data.root={root}")
    assert code == 0 and f"note: skipped in {root / 'train'}: 2 hidden files, for example {root}/train/._a.jpg" in text


@pytest.mark.parametrize("augment", ["none", "strong", "aerial"])
def test_contact_sheet_of_augmented_images(tmp_path, call, augment):
    """Boxes that cover the image still do after flips and crops, so each cell has its box's colour at the edges."""
    whole = [box(i, i, [0, 0, 64, 48]) for i in range(1, 7)]
    root = make_coco(tmp_path, [(64, 48)] * 6, "train", whole)
    make_coco(root, [(64, 48)] * 2, "val")
    page = tmp_path / "pages" / "sheet.png"
    wanted = f"--config.data.root={root}", f"--config.data.augment={augment}", "--show", 5, "--show-to", page
    code, text, _ = call("check_data", *SMALL, *wanted)
    assert code == 0 and f"5 training images with their boxes: {page}" in text
    sheet = np.asarray(Image.open(page).convert("RGB")).astype(int)
    assert sheet.shape == (2 * 488 + 8, 4 * 488 + 8, 3)
    cells = [sheet[8 + 488 * row :, 8 + 488 * column :][:480, :480] for row in (0, 1) for column in range(4)]
    assert [bool((cell != 255).any()) for cell in cells] == [True] * 5 + [False] * 3
    for cell in cells[:5]:
        inside = np.argwhere((cell != 255).any(2))
        (top, left), (bottom, right) = inside.min(0), inside.max(0)
        edge = (
            cell[(top + bottom) // 2, left + 1],
            cell[(top + bottom) // 2, right - 1],
            cell[bottom - 1, (left + right) // 2],
        )
        assert all(abs(colour - edge[0]).max() < 60 and colour.max() - colour.min() > 100 for colour in edge)


@pytest.mark.parametrize("wrong", [["--show=-1"], ["--show=2", "--show-to=page.txt"]])
def test_invalid_contact_sheet_flags(tmp_path, call, wrong):
    code, _, error = call("check_data", *SMALL, f"--config.data.root={tmp_path}", *wrong)
    assert code == 2 and "--show must be at least 0" in error


def test_missing_image_is_an_error_or_skipped(tmp_path, call):
    root = made_layouts.coco(tmp_path, made_layouts.made())
    (root / "train" / "train1.jpg").unlink()
    code, text, _ = call("check_data", *SMALL, f"--config.data.root={root}", "--no-images")
    assert code == 1 and "train1.jpg does not exist" in text
    skip = "--config.data.on_bad_image=skip"
    code, text, _ = call("check_data", *SMALL, f"--config.data.root={root}", skip, "--no-images")
    assert code == 0 and "note: 1 images listed in" in text and "do not exist" in text
    assert json.loads((root / "annotations" / "instances_train.json").read_text())["images"]
