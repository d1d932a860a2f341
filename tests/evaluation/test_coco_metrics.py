"""Tests of the COCO metrics against published values, and of the evaluation of images."""

import json

import jax
import numpy as np
import pytest
from made_coco import box, coco_split, make_coco
from reference_pack import arrays, data_folder

from yolos_jax.distributed.mesh import data_mesh
from yolos_jax.errors import InputError
from yolos_jax.evaluation.coco_metrics import NAMES, coco_metrics, table, to_results, write_report
from yolos_jax.evaluation.evaluator import Evaluator
from yolos_jax.evaluation.image_pass import Batching
from yolos_jax.images.sequence import Geometry
from yolos_jax.inference.postprocess import postprocess
from yolos_jax.model.config import YolosConfig
from yolos_jax.model.yolos import build


def test_matches_published_metrics():
    folder = data_folder("coco_eval_ref")
    lines = (folder / "val2014_fake_eval_res.txt").read_text().split("type=bbox")[1].split("type=")[0].splitlines()
    published = [float(line.rsplit("=", 1)[1]) for line in lines if " = " in line]
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    found = coco_metrics(json.loads((folder / "instances_val2014_100.json").read_text()), results)
    assert [round(found[name], 3) for name in NAMES] == published
    assert abs(found["AP"] - 0.504581) < 5e-7
    assert "AP50" in table(found) and f"{found['AP']:.4f}" in table(found)


def test_images_without_detections_are_scored():
    """An image without detections lowers recall instead of being skipped."""
    folder = data_folder("coco_eval_ref")
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    ids = sorted({r["image_id"] for r in results})
    half = [r for r in results if r["image_id"] in ids[::2]]
    assert coco_metrics(truth, half)["AR100"] < coco_metrics(truth, results)["AR100"] - 0.1
    assert coco_metrics(truth, [])["AP"] == 0
    with pytest.raises(InputError, match="is not in the ground truth"):
        coco_metrics(truth, [{**results[0], "image_id": -5}])


def test_postprocess_matches_the_reference():
    z = arrays("postprocess.npz")
    for n in range(sum(name.endswith("_logits") for name in z.files)):
        scores, labels, boxes = postprocess(z[f"p{n}_logits"], z[f"p{n}_boxes"], z[f"p{n}_orig_hw"][:, ::-1])
        np.testing.assert_allclose(scores, z[f"p{n}_scores"], atol=1e-6)
        np.testing.assert_array_equal(labels, z[f"p{n}_labels"])
        scale = z[f"p{n}_orig_hw"].max()
        np.testing.assert_allclose(np.asarray(boxes) / scale, z[f"p{n}_out_boxes"] / scale, atol=1e-6)


@pytest.mark.parametrize(
    "change", [{"id": 0}, {"id": 5}, {"area": None}, {"iscrowd": None}, {"id": "a"}], ids=lambda c: str(c)
)
def test_hand_made_files_are_scored_correctly(tmp_path, change):
    """With ids that are 0, duplicate or text, or with null fields, perfect detections still have an AP of 1."""
    annotations = [box(5, 1, [4, 4, 20, 10]) | change, box(5, 2, [4, 4, 20, 10])]
    root = make_coco(tmp_path, [(64, 48)] * 2, annotations=annotations)
    truth = coco_split(root, "train2017", 10).ground_truth()
    results = [{"image_id": i, "category_id": 1, "bbox": [4, 4, 20, 10], "score": 0.9} for i in (1, 2)]
    assert coco_metrics(truth, results)["AP"] == 1.0
    assert coco_metrics(truth, results[:1])["AR100"] == 0.5


def test_results_use_xywh_boxes(tmp_path):
    entries = to_results(7, np.array([0.5]), np.array([3]), np.array([[10.0, 20.0, 40.0, 80.0]]))
    assert entries == [{"image_id": 7, "category_id": 3, "bbox": [10.0, 20.0, 30.0, 60.0], "score": 0.5}]
    write_report(tmp_path / "a", {"AP": 0.25}, entries)
    assert json.loads((tmp_path / "a" / "results.json").read_text()) == entries
    assert json.loads((tmp_path / "a" / "metrics.json").read_text()) == {"AP": 0.25}


@pytest.mark.parametrize("devices, batch_size", [(1, 1), (1, 8), (8, 8)])
def test_every_image_is_evaluated_once(tmp_path, devices, batch_size):
    """Uses uneven buckets and a corrupted image. The model is untrained, so only the number of results is checked."""
    sizes = [(64, 48)] * 5 + [(48, 64)] * 4 + [(96, 32)] * 3
    root = make_coco(tmp_path, sizes)
    (root / "train2017" / "3.jpg").write_bytes(b"not an image")
    config = YolosConfig(width=12, depth=2, heads=2, det_tokens=4, num_classes=10, init_pe_size=(48, 64))
    params = build(config)[1]
    source = coco_split(root, "train2017", 10)
    geometry = Geometry.of(32, 64, 16, 84)
    mesh = data_mesh(jax.devices()[:devices])
    skipping = Batching(mesh, batch_size, "skip")
    evaluator = Evaluator(config, source, geometry, skipping, buckets=2)
    found = evaluator(params)
    ids = [r["image_id"] for r in found.results]
    assert sorted(ids) == sorted([i for i in range(1, 13) if i != 3] * config.det_tokens)
    assert len(found.skipped) == 1 and "3.jpg" in found.skipped[0]
    assert set(found.metrics) == set(NAMES)
    if devices > 1:
        with pytest.raises(InputError, match=r"not a multiple of the number of devices \(8\)"):
            Batching(mesh, 3)
    assert evaluator.until_cancelled(params, lambda: True) is None
    with pytest.raises(InputError, match=r"3\.jpg.*on_bad_image=skip"):
        Evaluator(config, source, geometry, Batching(mesh, batch_size))(params)


def test_contiguous_labels_become_category_ids(tmp_path):
    """The model has labels 0 and 1 for categories 1 and 7. Annotations of images that are not used may be invalid."""
    root = make_coco(tmp_path, [(64, 48)] * 3, annotations=[box(1, 1, [4, 4, 20, 10], 7), {"id": 2, "image_id": 3}])
    config = YolosConfig(width=12, depth=2, heads=2, det_tokens=4, num_classes=2, init_pe_size=(48, 64))
    source = coco_split(root, "train2017", max_images=2, categories="contiguous")
    batching = Batching(data_mesh(jax.devices()[:1]), 2)
    evaluator = Evaluator(config, source, Geometry.of(48, 96, 16, 84), batching)
    found = evaluator(build(config)[1])
    assert {r["category_id"] for r in found.results} <= {1, 7} and len(found.results) == 8
