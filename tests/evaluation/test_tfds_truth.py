"""Evaluation from TFDS records: the folder's 12 numbers with the annotation file, and what changes without it."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from made_coco import box, make_coco
from made_tfds import CATEGORIES, coco_folder
from reference_pack import ROOT, data_folder
from tiny_weights import random_params

from yolos_jax.data.coco import CocoSource
from yolos_jax.data.tfds import TfdsSource
from yolos_jax.data.tfds_build import build
from yolos_jax.evaluation.coco import NAMES, coco_metrics
from yolos_jax.model.config import YolosConfig
from yolos_jax.training import checkpoints


def about(truth, seed: int, scale: float) -> list[dict]:
    """Two detections near every annotation, of random scores."""
    rng, found = np.random.default_rng(seed), []
    for annotation in truth["annotations"] * 2:
        sides = np.maximum(annotation["bbox"], 1)[[2, 3, 2, 3]]
        moved = np.array(annotation["bbox"]) + rng.normal(0, scale, 4) * sides
        found.append(
            {
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "bbox": [*moved[:2].tolist(), *np.maximum(moved[2:], 1).tolist()],
                "score": rng.random(),
            }
        )
    return found


@pytest.mark.parametrize("which", ["made", "coco_tiny80"])
def test_the_same_detections_score_the_same(tmp_path, which):
    coco = coco_folder(tmp_path / "coco") if which == "made" else data_folder(which)
    directory, _ = build(coco, tmp_path / "out")
    folder = CocoSource(coco, "val2017")
    truth = folder.ground_truth()
    listed = TfdsSource(directory, "val2017", annotations=folder.annotation_file).ground_truth()
    recorded = TfdsSource(directory, "val2017").ground_truth()
    for seed, scale in enumerate((0.03, 0.08, 0.15)):
        found = about(truth, seed, scale)
        want = coco_metrics(truth, found)
        assert 0.05 < want["AP"] < want["AP50"] < 1
        assert coco_metrics(listed, found) == want
        without = coco_metrics(recorded, found)
        for name in NAMES:  # no area of these lies where cutting it matters
            assert abs(without[name] - want[name]) < 1e-3, name


def test_whole_numbers_of_areas_move_objects_between_sizes(tmp_path):
    """1024.5 is medium and 1024 is both small and medium; AP knows no sizes."""
    boxes = [box(1, 1, [0, 0, 32, 32.016], 1, area=1024.5), box(2, 1, [0, 40, 60, 60], 1, area=3600)]
    coco = make_coco(tmp_path / "coco", [(100, 100)], "val2017", boxes, CATEGORIES)
    truth = CocoSource(coco, "val2017").ground_truth()
    recorded = TfdsSource(build(coco, tmp_path / "out")[0], "val2017").ground_truth()
    found = [{"image_id": 1, "category_id": 1, "bbox": a["bbox"], "score": 0.9} for a in boxes]
    before, after = coco_metrics(truth, found), coco_metrics(recorded, found)
    assert [m[name] for m in (before, after) for name in ("AP", "APm")] == pytest.approx([1] * 4)
    assert before["APs"] == -1 and after["APs"] == pytest.approx(1)


MODEL = YolosConfig(width=12, depth=2, heads=2, det_tokens=6, num_classes=91, init_pe_size=(64, 64))


def test_the_program_gives_the_folders_numbers(tmp_path):
    """A whole evaluation of a random model: equal detections and numbers, and a line that says what is missing."""
    coco = coco_folder(tmp_path / "coco", ["val2017"])
    build(coco, tmp_path / "tfds")
    meta = checkpoints.Meta(MODEL, {}, 0, {}, None)
    checkpoints.save(tmp_path / "run", 0, jax.tree.map(lambda x: x * 0.1, random_params(MODEL)), meta)
    listed = coco / "annotations" / "instances_val2017.json"
    runs = {
        "folder": [f"--config.data.root={coco}"],
        "listed": [f"--config.data.root={tmp_path / 'tfds'}", f"--config.data.val_annotations={listed}"],
        "records": [f"--config.data.root={tmp_path / 'tfds'}"],
    }
    options = {"short_side": 48, "max_side": 96, "buckets": 1, "workers": 1}
    metrics, results = {}, {}
    for name, more in runs.items():
        command = [sys.executable, "eval.py", "--config=yolos_ti", f"--checkpoint={tmp_path / 'run'}", *more]
        command += [f"--config.data.{key}={value}" for key, value in options.items()]
        command += [f"--config.model.{key}={getattr(MODEL, key)}" for key in ("width", "depth", "heads", "det_tokens")]
        command += ["--config.model.init_pe_size=(64, 64)", f"--out={tmp_path / name}", "--config.eval.batch_size=2"]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert ("areas are whole numbers" in done.stdout) == (name == "records")
        results[name] = json.loads((tmp_path / name / "results.json").read_text())
        metrics[name] = json.loads((tmp_path / name / "metrics.json").read_text())
    assert len(results["folder"]) == 6 * MODEL.det_tokens
    assert results["listed"] == results["folder"] and metrics["listed"] == metrics["folder"]
    for name in ("AP", "AP50"):
        assert abs(metrics["records"][name] - metrics["folder"][name]) < 1e-3
    by_image = [sorted(results[n], key=lambda r: (r["image_id"], r["score"])) for n in ("records", "folder")]
    for found, want in zip(*by_image, strict=True):  # another order of images, so other batches
        assert found["image_id"] == want["image_id"] and abs(found["score"] - want["score"]) < 1e-5
