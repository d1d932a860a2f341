"""ONNX beside the exported programs, where its converter is installed."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from tiny_export import call, checkpoint_in, real_images

from yolos_jax import Detector
from yolos_jax.errors import InputError
from yolos_jax.images.reading import open_rgb
from yolos_jax.tools.exporting import onnx as export_onnx
from yolos_jax.tools.exporting import stablehlo as export


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return checkpoint_in(tmp_path_factory.mktemp("checkpoint") / "c")


def test_onnx_absent(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"jax2onnx and onnxruntime: pip install 'yolos-jax\[onnx\]'"):
        call(monkeypatch, "--checkpoint", checkpoint, "--out", tmp_path / "e", "--onnx", 64, 96)


def onnx_packages():
    """onnxruntime, or a skip that says why."""
    for name in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is absent (pip install '.[onnx]')")
    return sys.modules["onnxruntime"]


def test_onnx(checkpoint, tmp_path, monkeypatch):
    """onnxruntime on real images, resized to the one size, against our own forward pass."""
    runtime = onnx_packages()
    call(monkeypatch, "--checkpoint", checkpoint, "--out", tmp_path / "e", "--onnx", 64, 96)
    facts = json.loads((tmp_path / "e" / "export.json").read_text())["onnx"]
    assert facts["inputs"]["image"]["shape"] == [1, 64, 96, 3] and max(facts["differences_from_ours"].values()) <= 1e-5
    session = runtime.InferenceSession(tmp_path / "e" / facts["file"], providers=["CPUExecutionProvider"])
    images = [open_rgb(image) for image in real_images()]
    sized = [np.asarray(image.resize((96, 64), Image.Resampling.BILINEAR)) for image in images]
    logits, boxes = Detector.load(checkpoint).forward(sized)
    for i, image in enumerate(images):
        size = np.array([image.size], np.float32)
        out = dict(zip(export.OUTPUTS, session.run(list(export.OUTPUTS), {"image": sized[i][None], "size": size})))
        np.testing.assert_allclose(out["logits"][0], logits[i], atol=1e-5 * np.abs(logits).max(), rtol=0)
        np.testing.assert_allclose(out["boxes"][0], boxes[i], atol=1e-5, rtol=0)
        corners = np.concatenate([boxes[i, :, :2] - boxes[i, :, 2:] / 2, boxes[i, :, :2] + boxes[i, :, 2:] / 2], -1)
        assert np.abs(out["pixel_boxes"][0] / np.tile(image.size, 2) - corners).max() <= 1e-5
        np.testing.assert_array_equal(out["labels"][0], logits[i, :, :-1].argmax(-1))


def test_onnx_that_fails_or_differs_is_not_written(checkpoint, tmp_path, monkeypatch):
    onnx_packages()
    options = ["--checkpoint", checkpoint, "--out", tmp_path / "e", "--onnx", 64, 96]

    def fail(program, inputs):
        raise NotImplementedError("no such primitive\nand more")

    monkeypatch.setattr(export_onnx, "_convert", fail)
    with pytest.raises(InputError, match=r"jax2onnx \d.*could not convert.*\(no such primitive\)"):
        call(monkeypatch, *options)

    def wrong(program, inputs):
        out = dict(zip(export.OUTPUTS, map(np.array, program(**inputs))))
        return b"", out | {"boxes": out["boxes"] + np.float32(1e-3)}

    monkeypatch.setattr(export_onnx, "_convert", wrong)
    with pytest.raises(InputError, match="computes other numbers"):
        call(monkeypatch, *options)
    assert not (tmp_path / "e").exists()
    with pytest.raises(InputError, match="multiples of the patch"):
        call(monkeypatch, *options[:-1], 97)
