"""Compares evaluation on TFDS records, with and without an annotation file, with evaluation on a COCO folder."""

import contextlib
import json

import jax
import numpy as np
import pytest
from compiled_once import compiled_once
from made_coco import box, coco_split, make_coco
from made_tfds import CATEGORIES, coco_folder, tfds_split
from reference_pack import data_folder
from tiny_weights import random_params

from yolos_jax.data.augment import Pipeline
from yolos_jax.data.detection_batches import detection_work
from yolos_jax.data.loader import load_batches
from yolos_jax.data.plan import EvaluationPlan
from yolos_jax.datasets.dataset import DataSet
from yolos_jax.datasets.tfds.build import build_records
from yolos_jax.distributed.mesh import data_mesh
from yolos_jax.evaluation import evaluator as evaluating
from yolos_jax.evaluation.coco_metrics import NAMES, coco_metrics
from yolos_jax.evaluation.image_pass import Batching
from yolos_jax.images.sequence import Geometry
from yolos_jax.model.config import YolosConfig
from yolos_jax.model.yolos import Outputs
from yolos_jax.tasks import detection
from yolos_jax.training import checkpoint_files
from yolos_jax.weights import checkpoints


def about(truth, seed: int, scale: float) -> list[dict]:
    """Generates two detections with random scores near every annotation."""
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
def test_same_detections_have_the_same_scores(tmp_path, which):
    coco = coco_folder(tmp_path / "coco") if which == "made" else data_folder(which)
    directory, _ = build_records(coco, tmp_path / "out")
    folder = coco_split(coco, "val2017")
    truth = folder.ground_truth()
    listed = tfds_split(directory, "val2017", annotations=folder.origin).ground_truth()
    assert listed == truth  # so the scores must be the same
    recorded = tfds_split(directory, "val2017").ground_truth()
    for seed, scale in enumerate((0.03, 0.08, 0.15)):
        found = about(truth, seed, scale)
        want = coco_metrics(truth, found)
        assert 0.05 < want["AP"] < want["AP50"] < 1
        without = coco_metrics(recorded, found)
        for name in NAMES:  # rounding does not change the size class of any of these areas
            assert abs(without[name] - want[name]) < 1e-3, name


def test_rounded_areas_move_objects_between_sizes(tmp_path):
    """An area of 1024.5 is medium, but 1024 is both small and medium; AP over all sizes does not change."""
    boxes = [box(1, 1, [0, 0, 32, 32.016], 1, area=1024.5), box(2, 1, [0, 40, 60, 60], 1, area=3600)]
    coco = make_coco(tmp_path / "coco", [(100, 100)], "val2017", boxes, CATEGORIES)
    truth = coco_split(coco, "val2017").ground_truth()
    recorded = tfds_split(build_records(coco, tmp_path / "out")[0], "val2017").ground_truth()
    found = [{"image_id": 1, "category_id": 1, "bbox": a["bbox"], "score": 0.9} for a in boxes]
    before, after = coco_metrics(truth, found), coco_metrics(recorded, found)
    assert [m[name] for m in (before, after) for name in ("AP", "APm")] == pytest.approx([1] * 4)
    assert before["APs"] == -1 and after["APs"] == pytest.approx(1)


MODEL = YolosConfig(width=12, depth=2, heads=2, det_tokens=6, num_classes=91, init_pe_size=(64, 64))
QUERIES = 40
GEOMETRY = Geometry.of(48, 96, 16, 6)


def signature(patches, grid):
    """A weighted sum of all pixels, excluding padding, uint32 `[B]`; the inputs are numpy or jax arrays."""
    xp = jax.numpy if isinstance(patches, jax.Array) else np
    count, values = patches.shape[1:]
    weights = xp.arange(count * values, dtype=xp.uint32).reshape(count, values) * xp.uint32(2654435761)
    real = xp.arange(count)[None] < grid.prod(1)[:, None]
    return (patches.astype(xp.uint32) * (weights ^ (weights >> 15)) * real[..., None]).sum((1, 2), dtype=xp.uint32)


def knows_by_heart(graph, params, patches, grid) -> Outputs:
    """Returns recorded outputs for images with exactly the same pixels, and no detections for other images."""
    same = signature(patches, grid)[:, None] == params["signature"][None]
    known, place = same.any(1), same.argmax(1)
    nothing = jax.nn.one_hot(MODEL.num_classes, MODEL.num_classes + 1) * 100
    logits = jax.numpy.where(known[:, None, None], params["logits"][place], nothing)
    return Outputs(logits, params["boxes"][place], features=logits, attention=None)  # evaluation uses the first two


def learned(source: DataSet) -> dict[str, np.ndarray]:
    """The signature of every image, and two boxes with random scores near each of its objects."""
    plan = EvaluationPlan(source.examples.sizes, Pipeline.of(GEOMETRY), 8, 1)
    n, rng = len(source.examples), np.random.default_rng(0)
    logits = np.full((n, QUERIES, MODEL.num_classes + 1), -100, np.float32)
    logits[..., -1] = 0
    boxes, signatures = np.full((n, QUERIES, 4), 0.5, np.float32), np.zeros(n, np.uint32)
    with contextlib.closing(load_batches(detection_work(source, plan, 16, 6), 0, len(plan), 0)) as batches:
        for loaded in batches:
            real = loaded.indices >= 0
            signatures[loaded.indices[real]] = signature(loaded.batch.patches, loaded.batch.grid)[real]
    for i, example in enumerate(source.examples):
        xyxy = np.repeat(example.boxes, 2, 0)[:QUERIES]
        cxcywh = np.concatenate([xyxy[:, :2] + xyxy[:, 2:], (xyxy[:, 2:] - xyxy[:, :2]) * 2], 1) / 2
        cxcywh += rng.normal(0, 0.08, cxcywh.shape) * cxcywh[:, [2, 3, 2, 3]]
        boxes[i, : len(cxcywh)] = cxcywh / np.tile([example.width, example.height], 2)
        logits[i, range(len(cxcywh)), np.repeat(example.labels, 2)[:QUERIES]] = rng.normal(0, 2, len(cxcywh))
    assert len(set(signatures.tolist())) == n
    return {"signature": signatures, "logits": logits, "boxes": boxes}


def assert_same_results(found, want, atol=0.0):
    """Compares two lists of results, regardless of the order of images."""
    found, want = (sorted(r, key=lambda one: one["image_id"]) for r in (found, want))  # keeps the order of queries
    for key in ("image_id", "category_id"):
        assert [one[key] for one in found] == [one[key] for one in want]
    for key in ("bbox", "score"):
        np.testing.assert_allclose([one[key] for one in found], [one[key] for one in want], rtol=0, atol=atol)


def test_memorised_images_have_the_same_scores_from_all_sources(tmp_path, monkeypatch):
    """Tests everything from reading files to AP, except the network.

    The network is replaced by a function that recognises the images of the COCO folder by their pixels after loading.
    It detects nothing in an image that was decoded or resized differently. Equal metrics therefore show that images,
    sizes, ids, labels and ground truth are the same from all sources.
    """
    coco = data_folder("coco_tiny80")
    folder = coco_split(coco, "val2017", 91)
    directory, _ = build_records(coco, tmp_path)
    monkeypatch.setattr(evaluating, "apply_on", lambda devices: knows_by_heart)
    params, mesh = learned(folder), data_mesh(jax.devices()[:1])

    def evaluator_on(source):
        return evaluating.Evaluator(MODEL, source, GEOMETRY, Batching(mesh, 8), buckets=1)

    with compiled_once():
        evaluator = evaluator_on(folder)
        want = evaluator(params)
        assert 0.2 < want.metrics["AP"] < 0.8
        listed = evaluator_on(tfds_split(directory, "val2017", 91, annotations=folder.origin))(params)
        assert listed.metrics == want.metrics and listed.results == want.results
        records = evaluator_on(tfds_split(directory, "val2017", 91))(params)
    assert [r["image_id"] for r in records.results] != [r["image_id"] for r in want.results]  # a different order
    assert_same_results(records.results, want.results)
    for name in NAMES:
        assert abs(records.metrics[name] - want.metrics[name]) < 1e-3, name
    # If the signatures differ, there are no detections.
    forgot = params | {"signature": params["signature"] + np.uint32(1)}
    assert evaluator(forgot).metrics["AP"] < 0.01


def test_eval_program_with_tfds_and_folder(tmp_path, monkeypatch, call):
    """Evaluates a random model on each source: the detections are the same, and a note mentions rounded areas."""
    coco = coco_folder(tmp_path / "coco", ["val2017"])
    build_records(coco, tmp_path / "tfds")
    meta = checkpoint_files.Meta(MODEL, {}, 0, {}, None)
    checkpoints.save(tmp_path / "run", 0, jax.tree.map(lambda x: x * 0.1, random_params(MODEL)), meta)
    monkeypatch.setattr(detection, "data_mesh", lambda: data_mesh(jax.devices()[:1]))
    listed = coco / "annotations" / "instances_val2017.json"
    runs = {
        "folder": [f"--config.data.root={coco}"],
        "listed": [f"--config.data.root={tmp_path / 'tfds'}", f"--config.data.val_annotations={listed}"],
        "records": [f"--config.data.root={tmp_path / 'tfds'}", "--config.data.workers=1"],  # reads in a subprocess
    }
    options = {"short_side": 48, "max_side": 96, "buckets": 1, "workers": 0}
    metrics, results = {}, {}
    with compiled_once():
        for name, more in runs.items():
            words = ["eval.py", "--config=yolos_ti", f"--checkpoint={tmp_path / 'run'}"]
            words += [f"--config.data.{key}={value}" for key, value in options.items()]
            words += [
                f"--config.model.{key}={getattr(MODEL, key)}" for key in ("width", "depth", "heads", "det_tokens")
            ]
            words += ["--config.model.init_pe_size=(64, 64)", f"--out={tmp_path / name}", "--config.eval.batch_size=2"]
            done = call(*words, *more)
            assert done.returncode == 0, done.stderr[-2000:]
            assert ("store integer areas" in done.stdout) == (name == "records")
            results[name] = json.loads((tmp_path / name / "results.json").read_text())
            metrics[name] = json.loads((tmp_path / name / "metrics.json").read_text())
    assert len(results["folder"]) == 6 * MODEL.det_tokens
    assert results["listed"] == results["folder"] and metrics["listed"] == metrics["folder"]
    # The images come in a different order, so batches and rounding errors differ, too.
    assert_same_results(results["records"], results["folder"], atol=1e-4)
    for name in NAMES[:3]:
        assert metrics["records"][name] == pytest.approx(metrics["folder"][name], abs=1e-3)
