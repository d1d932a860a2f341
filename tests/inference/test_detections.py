"""Tests conversions of detections to other formats."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from yolos_jax import Detections
from yolos_jax.errors import InputError
from yolos_jax.images.reading import UnreadableImage

BOXES = np.array([[4.5, 3, 60, 40], [-1, 2, 20, 30.25]], np.float32)
FOUND = Detections(BOXES, np.array([0.75, 0.5], np.float32), np.array([17, 3], np.int32), ["cat", "car"], (64, 48))
NONE = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), [], (64, 48))


def test_length():
    assert len(FOUND) == 2 and len(NONE) == 0 and not NONE


def test_to_dict_is_json():
    expected = [
        {"label": 17, "name": "cat", "score": 0.75, "box": [4.5, 3, 60, 40]},
        {"label": 3, "name": "car", "score": 0.5, "box": [-1, 2, 20, 30.25]},
    ]
    assert json.loads(json.dumps(FOUND.to_dict())) == {"width": 64, "height": 48, "objects": expected}
    assert NONE.to_dict() == {"width": 64, "height": 48, "objects": []}


def test_draw_accepts_any_input_of_a_detector(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    drawn = FOUND.draw(image)
    assert drawn.size == (512, 384) and NONE.draw(image).tobytes() == image.resize((512, 384)).tobytes()
    image.save(tmp_path / "p.png")
    for other in (tmp_path / "p.png", (tmp_path / "p.png").read_bytes(), np.asarray(image)):
        assert FOUND.draw(other).tobytes() == drawn.tobytes()
    turned = Image.Exif()
    turned[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=turned)
    assert FOUND.draw(tmp_path / "turned.png").tobytes() == drawn.tobytes()


def test_draw_rejects_invalid_images(tmp_path):
    with pytest.raises(InputError, match="the image has 48x64 pixels, but these detections are for one with 64x48"):
        FOUND.draw(Image.new("RGB", (48, 64)))
    with pytest.raises(UnreadableImage, match=r"absent\.png does not exist"):
        FOUND.draw(tmp_path / "absent.png")
    with pytest.raises(InputError, match="the image is of type int"):
        FOUND.draw(3)


@pytest.mark.parity
def test_to_supervision():
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    found = FOUND.to_supervision()
    assert isinstance(found, supervision.Detections) and len(found) == 2
    np.testing.assert_array_equal(found.xyxy, BOXES)
    np.testing.assert_array_equal(found.confidence, np.float32([0.75, 0.5]))
    np.testing.assert_array_equal(found.class_id, [17, 3])
    assert list(found["class_name"]) == ["cat", "car"]
    assert list(found[found.confidence > 0.6]["class_name"]) == ["cat"]
    np.testing.assert_allclose(found.box_area, [55.5 * 37, 21 * 28.25])
    image = np.zeros((48, 64, 3), np.uint8)
    assert supervision.BoxAnnotator().annotate(image.copy(), found).any()
    none = NONE.to_supervision()
    assert len(none) == 0 and list(none["class_name"]) == []
    assert len(supervision.Detections.merge([none, found])) == 2


def test_without_supervision(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)  # makes the import fail
    with pytest.raises(InputError, match=r"supervision is not installed; run pip install 'yolos-jax\[supervision\]'"):
        FOUND.to_supervision()
