"""Tests the scripts in `examples/` whose required packages are installed."""

import importlib.util
import io
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from reference_pack import ROOT
from tiny_export import checkpoint_in

from yolos_jax import Detector
from yolos_jax.inference.detections import Detections


def example(name, *packages):
    """Imports a module from `examples/`; skips the test if a package is missing."""
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed")
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # FastAPI looks up annotations there
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    return module


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return checkpoint_in(tmp_path_factory.mktemp("checkpoint") / "c")


def noise(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def as_png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_detection_and_attention(checkpoint, tmp_path):
    """Draws one panel of detections and one for each of the best tokens, brightest where the token attends most."""
    shows = example("detection_and_attention")
    Image.fromarray(noise(0, 40, 64)).save(tmp_path / "a.png")
    detector = Detector.load(checkpoint)
    shown = shows.panels(detector, tmp_path / "a.png", 0.0, 2)
    assert len(shown) == 3 and {image.size for _, image in shown} == {(232, 145)}
    assert shows.side_by_side(shown).size == (3 * 242, 145 + 32)

    attention = np.zeros((4, 8), np.float32)
    attention[3, 6] = 0.5
    drawn = np.asarray(shows.overlay(Image.new("RGB", (80, 40), "grey"), attention)).sum(-1, dtype=int)
    y, x = np.unravel_index(drawn.argmax(), drawn.shape)
    assert 30 <= y < 40 and 60 <= x < 70 and drawn[5, 5] == drawn.min()


def test_server(checkpoint, monkeypatch):
    """Concurrent requests share batches, each request gets its own result, and damaged images do not affect others."""
    pytest.importorskip("httpx", reason="httpx is not installed")
    server = example("server", "fastapi")
    from fastapi.testclient import TestClient

    monkeypatch.setenv("CHECKPOINT", str(checkpoint))
    monkeypatch.setattr(server, "WAIT", 0.2)
    monkeypatch.setattr(server, "LARGEST", 100_000)
    images = [noise(i, *((40, 64) if i % 2 else (64, 40))) for i in range(4)]
    detector = Detector.load(checkpoint)
    with TestClient(server.app) as client, ThreadPoolExecutor(6) as pool:
        bodies = [as_png(image) for image in images] + [b"no image", bytes(100_001)]
        answers = list(pool.map(lambda body: client.post("/detect?threshold=0.3", content=body), bodies))
        assert max(server.app.state.batcher.batches) > 1
    assert [answer.status_code for answer in answers] == [200] * 4 + [422, 413]
    for answer, want in zip(answers, detector(images, 0.3)):
        found = answer.json()
        assert (found["width"], found["height"]) == want.size
        assert [one["label"] for one in found["objects"]] == want.labels.tolist()
        boxes = np.array([one["box"] for one in found["objects"]]).reshape(-1, 4)
        np.testing.assert_allclose(boxes, want.boxes, atol=1e-2)


def test_tracking():
    """Two objects that pass each other in opposite directions keep their track ids when the boxes change order."""
    track = example("track", "supervision", "trackers")

    def at(frame):
        first, second = 10 + 4 * frame, 200 - 4 * frame
        boxes = np.array([[first, 20, first + 30, 60], [second, 90, second + 30, 140]], np.float32)
        order = [0, 1] if frame % 2 else [1, 0]
        return Detections(boxes[order], np.array([0.9, 0.8], np.float32), np.array([1, 1]), ["car", "car"], (300, 200))

    seen = list(track.tracked((at(frame) for frame in range(30)), track.ByteTrackTracker()))
    assert len(seen) == 30
    numbers = [dict(zip(one.xyxy[:, 1].astype(int).tolist(), one.tracker_id.tolist())) for one in seen[5:]]
    assert all(frame == numbers[0] for frame in numbers) and set(numbers[0]) == {20, 90}
    assert len(set(numbers[0].values())) == 2 and min(numbers[0].values()) >= 0


def test_slices(checkpoint):
    """Boxes from SAHI match detections in manually cut slices, clipped to the slice and shifted to its position."""
    slicing = example("slice_large", "sahi")
    detector, image = Detector.load(checkpoint), noise(0, 128, 192)
    threshold = 0.3
    model = slicing.YolosModel(model=detector, confidence_threshold=threshold)
    found = slicing.get_sliced_prediction(
        image, model, slice_height=64, slice_width=96, overlap_height_ratio=0, overlap_width_ratio=0, verbose=0,
        perform_standard_pred=False, postprocess_type="NMS", postprocess_match_threshold=1.1,
    )  # fmt: skip
    want = []
    for y in (0, 64):
        for x in (0, 96):
            part = detector(np.ascontiguousarray(image[y : y + 64, x : x + 96]), threshold)
            boxes = part.boxes.clip(0, [96, 64, 96, 64])
            kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
            moved = boxes + np.array([x, y, x, y])
            want += list(zip(part.labels[kept].tolist(), moved[kept].tolist(), part.scores[kept].tolist()))
    assert len(want) > 10
    got = [(one.category.id, one.bbox.to_xyxy(), one.score.value) for one in found.object_prediction_list]
    order = lambda one: (one[0], round(one[2], 4), one[1])  # noqa: E731
    assert len(got) == len(want)
    for (label, box, score), (true_label, true_box, true_score) in zip(sorted(got, key=order), sorted(want, key=order)):
        assert label == true_label and score == pytest.approx(true_score, abs=1e-5)
        np.testing.assert_allclose(box, true_box, atol=1.01)  # SAHI rounds to pixels
