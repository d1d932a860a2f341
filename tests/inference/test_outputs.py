"""Writes detections in each format and reads them back with independent readers; tests unique output names."""

import csv
import io
import json
from contextlib import closing, redirect_stdout

import numpy as np
import pytest
import yaml
from pycocotools.coco import COCO

from yolos_jax.errors import InputError
from yolos_jax.inference.detections import Detections
from yolos_jax.inference.inputs import Input
from yolos_jax.inference.outputs import FORMATS, Frame, check_free, destinations

NAMES = {3: "cat", 7: "dog, or «wolf»"}


def detections(boxes, labels=(3, 7), size=(200, 100)):
    scores = np.linspace(0.9, 0.5, len(boxes)).astype(np.float32)
    labels = np.array(labels[: len(boxes)], np.int64)
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(boxes, scores, labels, [NAMES[i] for i in labels.tolist()], size)


FOUND = {
    "in/a.jpg": detections([[10, 20, 60, 80], [-5, 0, 210, 90]]),
    "b.png": detections([]),
    "a.webp": detections([[0.5, 1.5, 2.5, 3.5]], (7,), (30, 40)),
}
FRAMES = [detections([[0, 0, 10, 10]]), detections([]), detections([[5, 5, 15, 25]], (7,))]


@pytest.fixture(params=FORMATS)
def written(request, tmp_path):
    wanted, notes = destinations([*(Input("image", name) for name in FOUND), Input("video", "film.mp4")])
    assert [t.name for t in wanted] == ["a", "b", "a-2", "film"]
    assert notes == ["1 input has the same name as another; the outputs are named a-2 for a.webp"]
    writer = FORMATS[request.param]
    check_free(tmp_path, wanted, writer, True, False)
    with closing(writer(tmp_path, NAMES)) as out:
        for destination, found in zip(wanted, FOUND.values()):
            out.add(destination, found)
        for number, found in enumerate(FRAMES):
            out.add(wanted[3], found, Frame(number, number / 4))
    for destination in wanted:
        for name in (*writer.SHARED, *writer.files(destination)):
            assert (tmp_path / name).exists()
            with pytest.raises(InputError, match="already exists"):
                check_free(tmp_path, wanted, writer, False, False)
            check_free(tmp_path, wanted, writer, False, True)
    return request.param, tmp_path


def test_written_files_are_read_back(written):
    kind, folder = written
    everything = [*FOUND.values(), *FRAMES]
    files = [*FOUND, *["film.mp4"] * 3]
    frames = [(None, None)] * 3 + [(0, 0.0), (1, 0.25), (2, 0.5)]
    for found, file, frame, (boxes, scores, labels) in zip(everything, files, frames, READERS[kind](folder, files)):
        want = np.clip(found.boxes, 0, np.tile(found.size, 2)) if kind == "yolo" else found.boxes
        np.testing.assert_allclose(np.reshape(boxes, (-1, 4)), want, rtol=0, atol=2e-4, err_msg=f"{file} {frame}")
        np.testing.assert_allclose(scores, found.scores, rtol=0, atol=1e-6)
        assert labels == found.labels.tolist()


def from_json(folder, files):
    entries = [json.loads((folder / f"{name}.json").read_text()) for name in ("a", "b", "a-2")]
    entries += json.loads((folder / "film.json").read_text())
    assert [e["file"] for e in entries] == files and [e.get("seconds") for e in entries[2:]] == [None, 0.0, 0.25, 0.5]
    for e in entries:
        objects = e["objects"]
        assert [o["name"] for o in objects] == [NAMES[o["label"]] for o in objects]
        yield [o["box"] for o in objects], [o["score"] for o in objects], [o["label"] for o in objects]


def from_coco(folder, files):
    with redirect_stdout(io.StringIO()):
        truth = COCO(folder / "images.json")
        results = truth.loadRes(str(folder / "results.json"))
    assert [i["file_name"] for i in truth.loadImgs(truth.getImgIds())] == files
    assert {c["id"]: c["name"] for c in truth.loadCats(truth.getCatIds())} == NAMES
    images = truth.loadImgs(truth.getImgIds())
    assert [i.get("frame") for i in images] == [None] * 3 + [0, 1, 2] and images[2]["height"] == 40
    for image in images:
        each = results.loadAnns(results.getAnnIds(imgIds=[image["id"]]))
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in each)]
        yield boxes, [a["score"] for a in each], [a["category_id"] for a in each]


def from_yolo(folder, files):
    assert yaml.safe_load((folder / "names.yaml").read_text())["names"] == NAMES
    paths = [folder / f"{name}.txt" for name in ("a", "b", "a-2", *(f"film/00000{i}" for i in range(3)))]
    for path, found in zip(paths, [*FOUND.values(), *FRAMES]):
        rows = np.array([line.split() for line in path.read_text().splitlines()], float).reshape(-1, 6)
        centre, sides = rows[:, 1:3] * found.size, rows[:, 3:5] * found.size
        assert (rows[:, 1:] >= 0).all() and (rows[:, 1:] <= 1).all()
        yield np.hstack([centre - sides / 2, centre + sides / 2]), rows[:, 5], rows[:, 0].astype(int).tolist()


def from_csv(folder, files):
    with open(folder / "detections.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    keys = list(zip(files, ["", "", "", "0", "1", "2"]))
    # images without detections have no rows
    assert [(r["file"], r["frame"]) for r in rows] == [keys[0], keys[0], keys[2], keys[3], keys[5]]
    for key in keys:
        mine = [r for r in rows if (r["file"], r["frame"]) == key]
        assert all(r["name"] == NAMES[int(r["label"])] for r in mine)
        corners = [[float(r[k]) for k in ("x0", "y0", "x1", "y1")] for r in mine]
        yield corners, [float(r["score"]) for r in mine], [int(r["label"]) for r in mine]


READERS = {"json": from_json, "coco": from_coco, "yolo": from_yolo, "csv": from_csv}


def test_output_names_are_unique_ignoring_case():
    many = [Input("image", name) for name in ("a/x.jpg", "b/X.jpg", "c/x.png", "x-2.gif", "d/x.jpg", "e/x.jpg")]
    wanted, (note,) = destinations(many)
    assert [t.name for t in wanted] == ["x", "X-2", "x-3", "x-2-2", "x-4", "x-5"]
    assert note.startswith("5 inputs have the same name as another") and note.endswith("x-2-2 for x-2.gif and 2 more")
    assert "X-2 for b/X.jpg" in note


def test_an_input_is_never_overwritten(tmp_path):
    wanted, _ = destinations([Input("image", str(tmp_path / "a.png")), Input("video", str(tmp_path / "b.mp4"))])
    for draw, words in ((True, "a.png is one of the inputs"), (False, None)):
        if words is None:
            check_free(tmp_path, wanted, FORMATS["json"], draw, True)
        else:
            with pytest.raises(InputError, match=words):
                check_free(tmp_path, wanted, FORMATS["json"], draw, True)
    with pytest.raises(InputError, match=r"b\.mp4 is one of the inputs"):
        check_free(tmp_path, wanted[1:], FORMATS["csv"], True, True)


def test_frames_of_an_earlier_longer_video_are_removed(tmp_path):
    (destination,), _ = destinations([Input("video", "film.mp4")])
    for count in (3, 2):
        with closing(FORMATS["yolo"](tmp_path, NAMES)) as out:
            for number in range(count):
                out.add(destination, FRAMES[0], Frame(number, number / 4))
    assert sorted(p.name for p in (tmp_path / "film").iterdir()) == ["000000.txt", "000001.txt"]
