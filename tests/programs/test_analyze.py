"""Tests analyze.py: every command on a micro checkpoint, results on several devices and on one, invalid arguments."""

import csv
import json
import shutil

import jax
import numpy as np
import pytest
from made_coco import make_coco
from micro_run import SIZES, micro_config
from PIL import Image

from yolos_jax import Detector
from yolos_jax.config.recipes import DetectionConfig
from yolos_jax.distributed.mesh import data_mesh
from yolos_jax.model.config import YolosConfig
from yolos_jax.model.yolos import build
from yolos_jax.programs.examine_attention import same_objects
from yolos_jax.tasks import recipe
from yolos_jax.tasks.detection import evaluator_for
from yolos_jax.tools.analysis import correlation, tokens
from yolos_jax.tools.analysis.attention_maps import Seen, look_at
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.weights.checkpoints import save

MODEL = {"width": 12, "depth": 2, "heads": 2, "det_tokens": 6, "num_classes": 10, "init_pe_size": (64, 64)}
NAMES = {1: "one", 7: "seven"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Ten images with one box each, and two checkpoints with random weights, one of them without class names."""
    folder = tmp_path_factory.mktemp("analyze")
    make_coco(folder / "coco", SIZES, "val2017")
    config = YolosConfig(**MODEL)
    extra = {"config": {"data": {"short_side": 48, "max_side": 96}}}
    save(folder / "run", 3, build(config, 0, "from_nothing")[1], Meta(config, NAMES, 3, extra))
    save(folder / "other", 3, build(config, 1, "from_nothing")[1], Meta(config, {}, 3, extra))
    return folder


def split_flags(made):
    return [
        "--config=yolos_ti", *(f"--config.model.{key}={value}" for key, value in MODEL.items()),
        "--config.data.short_side=48", "--config.data.max_side=96", "--config.data.buckets=1",
        "--config.data.workers=0", f"--config.data.root={made / 'coco'}", "--config.eval.batch_size=8",
        "--checkpoint", made / "run",
    ]  # fmt: skip


def evaluator_on_one(made):
    """Parameters and an evaluator for the same split, with three images per batch on one device."""
    config = micro_config(made / "coco", **{"data.val_split": "val2017", "data.max_side": 96, "eval.batch_size": 8})
    params, _, found = evaluator_for(config, made / "run")
    config.eval.batch_size = 3
    prepared = recipe.prepare(config, DetectionConfig)
    return params, recipe.evaluator_of(prepared, found.model, found.source, data_mesh(jax.devices()[:1]))


def read(path):
    return list(csv.DictReader(path.open()))


def assert_equal_rows(a, b, atol):
    assert [list(row) for row in a] == [list(row) for row in b] and len(a)
    for one, other in zip(a, b):
        for key in one:
            try:
                assert float(one[key]) == pytest.approx(float(other[key]), abs=atol), (key, one, other)
            except ValueError:
                assert one[key] == other[key]


def test_tokens(made, tmp_path, call):
    done = call("analyze", "tokens", *split_flags(made), "--out", tmp_path / "out", "--tokens", "3")
    assert done.returncode == 0, done.stderr
    found = tmp_path / "out"
    params, one = evaluator_on_one(made)
    (tmp_path / "one").mkdir()
    tokens.examine_tokens(one, params, tmp_path / "one", NAMES, 3)
    for name in ("tokens.csv", "classes.csv", "token_classes.csv"):
        assert_equal_rows(read(found / name), read(tmp_path / "one" / name), 1e-6)
    listed = json.loads((found / "predictions.json").read_text())
    assert sorted((r["image_id"], r["token"]) for r in listed) == [(i, t) for i in range(1, 11) for t in range(6)]
    for row in read(found / "tokens.csv"):
        mine = [r for r in listed if r["token"] == int(row["token"])]
        x = [(r["bbox"][0] + r["bbox"][2] / 2) / SIZES[r["image_id"] - 1][0] for r in mine]
        assert float(row["x"]) == pytest.approx(np.mean(x), abs=1e-6)
        counts = np.bincount([r["category_id"] for r in mine])
        assert float(row["top_class_share"]) == counts.max() / len(mine)
    assert next((row["name"], row["annotated"]) for row in read(found / "classes.csv")) == ("one", "10")
    for name in ("tokens.png", "classes.png"):
        assert len(Image.open(found / name).convert("RGB").getcolors(2**24)) > 10
    again = call("analyze", "tokens", *split_flags(made), "--out", found)
    assert again.returncode == 2 and "--overwrite" in again.stderr


def test_correlation(made, tmp_path, call):
    done = call("analyze", "correlation", *split_flags(made), "--out", tmp_path, "--layer", "-2")
    assert done.returncode == 0, done.stderr
    params, one = evaluator_on_one(made)
    table, _ = correlation.examine_correlation(one, params)
    rows = read(tmp_path / "correlation.csv")
    # Changing the features by one unit in the last place (float32) changes these correlations by up to 1.8e-6.
    rounding = 1e-5
    assert [row["tokens"] for row in rows[::4]] == table.readings
    for row, want in zip(rows, table.rows()):
        assert int(row["images"]) == want["images"] == 10 and row["with"] == want["with"]
        for name in ("mean", "spread", "least", "most"):
            assert float(row[name]) == pytest.approx(want[name], abs=rounding)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("| after the last norm")]
    assert f"{table.rows()[-1]['mean']:+.3f}" in line and "the paper reports -0.80" in done.stdout
    assert (tmp_path / "correlation.png").exists() and sum(
        int(r["pairs"]) for r in read(tmp_path / "scatter.csv")
    ) == 300


def test_attention(made, tmp_path, call):
    picture = made / "coco" / "val2017" / "4.jpg"
    threshold = 0.0
    flags = [picture, "--checkpoint", made / "run", "--compare", made / "other", "--threshold", threshold]
    flags += ["--compilation-cache", "off"]
    done = call("analyze", "attention", *flags, "--out", tmp_path / "a", "--rollout", "--arrays", "--enlarge", "smooth")
    assert done.returncode == 0, done.stderr
    assert (
        "6 tokens with a score of at least 0.0 in 1 images, 0 unreadable" in done.stdout
        and "no class names" in done.stderr
    )
    assert sorted(p.name for p in (tmp_path / "a").glob("*.png")) == [f"4_token{n:03d}.png" for n in range(6)]
    z, seen = np.load(tmp_path / "a" / "4.npz"), look_at(Detector.load(made / "run"), picture, (-1,), True)
    np.testing.assert_allclose(z["attention"], seen.attention[0], atol=1e-6)
    np.testing.assert_allclose(z["rollout"], seen.rollout, atol=1e-6)
    np.testing.assert_allclose(z["boxes"], seen.boxes, atol=1e-3)
    assert z["names"].tolist() == seen.names and z["other_attention"].shape == z["attention"].shape
    for extra, words in [
        (["--layer", "2"], "no layer 2; the model has 2 layers, counted from 0"),
        (["--head", "1", "5"], "no head 5; the model of"),
        (["--threshold", "3"], "between 0 and 1"),
        (["--compare", made / "gone"], "gone does not exist"),
        (["--font", made / "gone.ttf"], "gone.ttf cannot be read"),
        (["--out", tmp_path / "a"], "already exists"),
    ]:
        refused = call("analyze", "attention", *flags, "--out", tmp_path / "b", *extra)
        (sentence,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
        assert refused.returncode == 2 and words in sentence and "Traceback" not in refused.stderr
    assert not (tmp_path / "b").exists()


def test_matches_tokens_of_two_checkpoints():
    """Tokens are matched by the largest IoU of at least 0.5, each token once."""
    corners = [[0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60], [0, 0, 10, 9], [90, 0, 91, 1], [70, 0, 71, 1]]
    moved = np.float32(corners)[[3, 0, 1, 2, 4, 5]] + np.float32([[0], [0], [1], [6], [0], [0]])
    blank, labels = Image.new("RGB", (100, 70)), np.zeros(6, np.int32)

    def seen(boxes, scores):
        return Seen(blank, (1, 1), np.float32(scores), labels, ["0"] * 6, np.float32(boxes), (), np.zeros(0))

    first, other = seen(corners, [0.5] * 6), seen(moved, [0.5, 0.5, 0.5, 0.5, 0.1, 0.5])
    assert same_objects(first, np.arange(6), other, 0.4).tolist() == [1, 2, -1, 0, -1, 5]


def test_positions_and_cost(made, tmp_path, call):
    flags = ["--checkpoint", made / "run"]
    done = call("analyze", "positions", *flags, "--out", tmp_path / "p", "--size", "96", "48", "--arrays")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == [
        "positions.csv", "positions.npz", "positions_initial.png", "positions_initial_resized.png",
    ]  # fmt: skip
    z = np.load(tmp_path / "p" / "positions.npz")
    assert z["initial_resized.maps"].shape[1:] == (3, 6) and z["initial.maps"].shape[1:] == (4, 4)
    refused = call("analyze", "positions", *flags, "--out", tmp_path / "q", "--layer", "1")
    assert refused.returncode == 2 and "no position embeddings for layer 1" in refused.stderr
    assert not (tmp_path / "q").exists()

    pictures = shutil.copytree(
        made / "coco" / "val2017", tmp_path / "pictures", ignore=lambda *_: [f"{n}.jpg" for n in range(3, 11)]
    )
    done = call("analyze", "cost", *flags, "--pictures", pictures, "--xla", "--out", tmp_path / "c")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "c" / "cost.json").read_text())
    assert found["rows"][0]["variant"] == "run" and found["speed"][0]["images"] == 2
    assert 1 <= found["xla"][0]["ratio"] <= 4  # norms are expensive in such a narrow model
    annotations = made / "coco" / "annotations" / "instances_val2017.json"
    done = call("analyze", "cost", "--variants", "ti", "--sizes-of", annotations)
    assert done.returncode == 0 and "| ti | 800 | 6.5 M |" in done.stdout and "ti at short side 256: " in done.stdout
    refused = call("analyze", "cost", "--variants", "xl")
    assert refused.returncode == 2 and "no variant 'xl'; choose one of ti, s, s_dwr, b" in refused.stderr


def test_invalid_arguments(made, tmp_path, call):
    empty = make_coco(tmp_path / "empty", SIZES[:2], "val2017", annotations=[])
    for command, flags, words in [
        ("tokens", [*split_flags(made), f"--config.data.root={empty}"], ["boxes", "data.val_split"]),
        ("correlation", [*split_flags(made), "--layer", "9"], ["no layer 9; the model has 2 layers"]),
        ("tokens", [*split_flags(made), "--confident", "7"], ["--confident between 0 and 1"]),
        ("nothing", [], ["invalid choice: 'nothing'"]),
    ]:
        done = call("analyze", command, *flags, "--out", tmp_path / "out")
        (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert all(word in sentence for word in words), sentence
    assert not (tmp_path / "out").exists()
