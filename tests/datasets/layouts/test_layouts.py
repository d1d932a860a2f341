"""The same data set has identical boxes, names, sizes and metrics in every layout."""

import pickle
import tempfile
from pathlib import Path

import made_layouts
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_layouts import LAYOUTS, NAMES, Box, Picture
from micro_run import micro_config

from yolos_jax.config.reader import read_recipe
from yolos_jax.config.recipes import DetectionConfig
from yolos_jax.datasets.examples import read_split
from yolos_jax.datasets.opening import find_split, recognise
from yolos_jax.datasets.settings import SplitOptions
from yolos_jax.evaluation.coco_metrics import coco_metrics
from yolos_jax.tasks import recipe

# Tolerances for corners, in pixels: YOLO files store 9 decimal digits, and float32 has 24 significant bits.
ROUNDING = {"yolo": 1e-4, "roboflow_yolo": 1e-4}
datasets = pytest.mark.parametrize("parquet", [False, True], ids=["saved", "parquet"])


def read(root, which="train", **changes):
    changes = {"data.train_split": "train", "data.val_split": "val", "data.categories": "contiguous"} | changes
    return recipe.source_of(
        read_recipe(micro_config(root, **changes, **{"model.num_classes": 0}), DetectionConfig), which
    )


def compare(source, pictures, atol=0.0, by_order=False):
    """Checks that the examples of a source match the generated images."""
    wanted = {p.stem: p for p in pictures}
    found = [p.stem for p in pictures] if by_order else [Path(e.file).stem for e in source.examples]
    assert sorted(found) == sorted(wanted)
    for stem, example in zip(found, source.examples):
        picture = wanted[stem]
        assert (example.width, example.height) == picture.size == source.read(example).size
        assert [source.label_names[i] for i in example.labels.tolist()] == [box.name for box in picture.boxes]
        corners = np.array([box.corners for box in picture.boxes], np.float32).reshape(-1, 4)
        np.testing.assert_allclose(example.boxes, corners, rtol=0, atol=atol)


@st.composite
def pictures(draw, stem):
    size = draw(st.integers(10, 60)), draw(st.integers(10, 60))
    boxes = []
    for _ in range(draw(st.integers(0, 4))):
        x0, y0 = draw(st.integers(0, size[0] - 3)), draw(st.integers(0, size[1] - 3))
        x1, y1 = draw(st.integers(x0 + 2, size[0])), draw(st.integers(y0 + 2, size[1]))
        box = Box(draw(st.sampled_from(NAMES)), (x0, y0, x1, y1))
        boxes += [box] if box not in boxes else []  # ultralytics ignores duplicate lines
    return Picture(stem, size, tuple(boxes))


@st.composite
def data_sets(draw):
    """The train split has a box of every category, because some layouts list no categories."""
    whole = Picture("whole", (20, 30), tuple(Box(name, (1, 2, 9, 12)) for name in NAMES))
    return {"train": [draw(pictures("a b")), draw(pictures("n.1")), whole], "val": [draw(pictures("x-1"))]}


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=8)
@given(data=data_sets())
def test_written_data_sets_are_read(layout, data):
    with tempfile.TemporaryDirectory() as folder:
        root = LAYOUTS[layout](Path(folder) / "set", data)
        for which in ("train", "val"):
            source = read(root, which)
            compare(source, data[which], ROUNDING.get(layout, 0.0))
            assert source.label_names == dict(enumerate(NAMES)) and source.num_classes == 3


@pytest.mark.parity
@datasets
def test_data_sets_written_by_the_datasets_package(tmp_path, parquet, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = made_layouts.made()
    root = made_layouts.rows(tmp_path / "set", data, parquet)
    for which in ("train", "val"):
        source = read(root, which)
        compare(source, data[which], by_order=True)
        again = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(again.read(again.examples[1]), source.read(source.examples[1]))


def detections(source, data):
    """Random detections near the objects, some with wrong classes; only their ids depend on the layout."""
    random, results = np.random.default_rng(5), []
    ids = {name: source.category_ids[label] for label, name in source.label_names.items()}
    images = {Path(e.file).stem: e.image_id for e in source.examples}
    for picture in data:
        for name, (x0, y0, x1, y1) in picture.boxes:
            for _ in range(3):
                dx, dy, dw, dh = random.normal(0, 2, 4)
                box = [x0 + dx, y0 + dy, max(1, x1 - x0 + dw), max(1, y1 - y0 + dh)]
                one = {"image_id": images[picture.stem], "bbox": box, "score": float(random.random())}
                results.append(one | {"category_id": ids[name if random.random() < 0.8 else NAMES[0]]})
    return results


def test_the_metrics_do_not_depend_on_the_layout(tmp_path):
    data = made_layouts.made(3, val=12, sides=(60, 200))
    numbers = {}
    for layout, write in LAYOUTS.items():
        source = read(write(tmp_path / layout, data), "val")
        numbers[layout] = coco_metrics(source.ground_truth(), detections(source, data["val"]))
    assert 0.2 < numbers["coco"]["AP"] < 0.9
    for layout, found in numbers.items():
        assert found == pytest.approx(numbers["coco"], abs=1e-6), layout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_one_layout_is_recognised_and_a_source_can_be_pickled(layout, tmp_path):
    root = LAYOUTS[layout](tmp_path, made_layouts.made())
    name, splits, notes = recognise(root)
    assert len(splits) == 2 and notes == []
    source = read(root)
    assert source.layout.endswith(name)  # "FiftyOne COCO" is a variant of COCO
    again = pickle.loads(pickle.dumps(source))
    assert again.examples.fingerprint() == source.examples.fingerprint()
    assert len(pickle.dumps(source)) < 30_000
    assert {i["file_name"] for i in source.ground_truth()["images"]} and len(source.ground_truth()["images"]) == 4
    for image, example in zip(source.ground_truth()["images"], source.examples):
        assert source.place(image["file_name"]) == str(Path(example.file).resolve())
        assert (image["width"], image["height"]) == (example.width, example.height)


def test_a_data_yaml_can_be_the_root(tmp_path):
    data = made_layouts.made()
    root = made_layouts.yolo(tmp_path, data)
    compare(read(root / "data.yaml"), data["train"], 1e-4)


def test_explicit_splits_take_precedence(tmp_path):
    data = made_layouts.made()
    root = made_layouts.roboflow(tmp_path, data)
    compare(read(root, "val", **{"data.val_split": "train"}), data["train"])
    assert len(read_split(find_split(root, "valid"), SplitOptions()).examples) == len(data["val"])


def test_layouts_are_short_files():
    """CONTRIBUTING.md requires layout files to have fewer than 120 lines."""
    for file in Path(recipe.__file__).parents[1].joinpath("datasets", "layouts").glob("*.py"):
        assert file.read_text().count("\n") < 120, file
