"""Tests of the export to ONNX; they are skipped if the required packages are not installed."""

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest
from tiny_export import call, checkpoint_in, real_images
from tiny_weights import TINY, random_params

from yolos_jax import Detector
from yolos_jax.errors import InputError
from yolos_jax.images.reading import open_rgb
from yolos_jax.images.sequence import pack
from yolos_jax.model.config import VARIANTS
from yolos_jax.model.yolos import abstract, apply
from yolos_jax.tools.exporting import onnx as export_onnx
from yolos_jax.tools.exporting import stablehlo as export
from yolos_jax.tools.exporting.run_detector import OnnxDetector


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return checkpoint_in(tmp_path_factory.mktemp("checkpoint") / "c")


def test_missing_packages(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"spox and onnxruntime: run pip install 'yolos-jax\[onnx\]'"):
        call(monkeypatch, "--checkpoint", checkpoint, "--out", tmp_path / "e", "--onnx")


def onnx_packages():
    """Returns onnxruntime; skips the test if a package is not installed."""
    for name in ("spox", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed (pip install '.[onnx]')")
    return sys.modules["onnxruntime"]


def run_onnx(content, canvas, grid, size):
    session = export_onnx.session(content)
    return dict(zip(export.OUTPUTS, session.run(list(export.OUTPUTS), {"images": canvas, "grid": grid, "size": size})))


def test_onnx(checkpoint, tmp_path, monkeypatch):
    """run_detector.py matches the Detector on real images of several sizes, with batch sizes of 1 and 6."""
    onnx_packages()
    call(monkeypatch, "--checkpoint", checkpoint, "--out", tmp_path / "e", "--onnx", "--int8", "--platforms", "cpu")
    facts = json.loads((tmp_path / "e" / "export.json").read_text())["onnx"]
    assert facts["inputs"]["images"]["shape"] == ["batch", "height", "width", 3]
    assert max(facts["differences_from_ours"].values()) <= 1e-5
    images = [open_rgb(image) for image in real_images()]
    wanted = Detector.load(checkpoint)(images, 0.0)
    for batch_size in (1, 6):
        found = OnnxDetector(tmp_path / "e", batch_size=batch_size)(images, 0.0)
        for objects, d in zip(found, wanted):
            assert [o["label"] for o in objects] == list(d.labels) and [o["name"] for o in objects] == d.names
            np.testing.assert_allclose([o["score"] for o in objects], d.scores, atol=1e-5, rtol=0)
            off = np.abs(np.array([o["box"] for o in objects]) - d.boxes) / np.tile(d.size, 2)
            assert off.max() <= 1e-5
    # The int8 program is less precise, but its best scores are close.
    rough = OnnxDetector(tmp_path / "e", facts["int8_file"])(images, 0.0)
    best = [max(o["score"] for o in objects) for objects in rough]
    np.testing.assert_allclose(best, [d.scores[0] for d in wanted], atol=0.1)
    weights = {tensor.data_type for tensor in model_of(tmp_path / "e" / facts["int8_file"]).graph.initializer}
    assert TENSOR_INT8 in weights


TENSOR_INT8 = 3  # onnx.TensorProto.INT8


def model_of(path):
    import onnx

    return onnx.load(path)


@pytest.mark.parametrize("name", sorted(VARIANTS))
@pytest.mark.parametrize("skip", [False, True])
def test_every_variant(name, skip):
    """Tests micro models with each variant's structure on a canvas with 3 images of different sizes.

    With `skip_equal_count`, one image has the same number of patches as the position table, but a different shape.
    """
    onnx_packages()
    whole = VARIANTS[name]
    mid = whole.mid_pe_size and (32, 48)
    heads = min(whole.heads, 3)
    config = dataclasses.replace(
        TINY, width=4 * heads, heads=heads, init_pe_size=(32, 48), mid_pe_size=mid, skip_equal_count=skip
    )
    params = random_params(config)
    grid = np.array([[6, 4], [3, 7], [1, 1]], np.int32)
    canvas = np.random.default_rng(1).integers(0, 256, (3, 48, 56, 3), np.uint8)
    size = np.array([[640, 480], [30, 70], [1, 1]], np.float32)
    found = run_onnx(build(config, params).SerializeToString(), canvas, grid, size)
    images = [pixels[: 8 * h, : 8 * w] for pixels, (h, w) in zip(canvas, grid)]
    batch = pack(images, 24, 3, 8)
    out = jax.jit(lambda *inputs: apply(abstract(config)[0], params, *inputs))(*batch)
    np.testing.assert_allclose(found["logits"], out.logits, atol=1e-5 * np.abs(out.logits).max(), rtol=0)
    np.testing.assert_allclose(found["boxes"], out.boxes, atol=1e-5, rtol=0)


def test_openvino():
    """OpenVINO computes the same outputs in float32, for a batch with images of two sizes."""
    onnx_packages()
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    content = build(TINY, random_params(TINY)).SerializeToString()
    grid, size = np.array([[6, 4], [3, 7]], np.int32), np.array([[640, 480], [30, 70]], np.float32)
    canvas = np.random.default_rng(1).integers(0, 256, (2, 48, 56, 3), np.uint8)
    found = run_onnx(content, canvas, grid, size)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    others = compiled({"images": canvas, "grid": grid, "size": size})
    for name, other in zip(export.OUTPUTS, others.values()):
        np.testing.assert_allclose(other, found[name], atol=1e-4 * np.abs(found[name]).max(), rtol=0)


def build(config, params):
    from yolos_jax.tools.exporting.onnx_graph import build_model

    return build_model(config, params)


def test_does_not_write_inexact_programs(checkpoint, tmp_path, monkeypatch):
    onnx_packages()
    options = ["--checkpoint", checkpoint, "--out", tmp_path / "e", "--int8"]
    with pytest.raises(InputError, match="--onnx"):
        call(monkeypatch, *options)
    monkeypatch.setattr("yolos_jax.tools.exporting.onnx_graph.MEAN", (0.485, 0.456, 0.4))
    with pytest.raises(InputError, match="differ too much .*logits"):
        call(monkeypatch, *options, "--onnx")
    assert not (tmp_path / "e").exists()
