"""Tests which inputs can be read as images; decoding is tested in the `Detector` tests."""

import os
import socket

import numpy as np
import pytest
from PIL import Image

from yolos_jax.images.reading import HEIF, UnreadableImage, image_endings, open_rgb, read_rgb


@pytest.mark.timeout(20)
def test_only_regular_files_are_opened(tmp_path, monkeypatch):
    """Opening a named pipe would block."""
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # a socket's path must be short
        server.bind("socket.png")
        pipe, made = tmp_path / "pipe.png", tmp_path / "socket.png"
        kinds = {pipe: "named pipe", made: "socket", "/dev/zero": "device", tmp_path: "folder"}
        for odd, kind in kinds.items():
            with pytest.raises(UnreadableImage, match=f"the image {odd} is a {kind}; replace it with a regular file"):
                open_rgb(odd)
    Image.new("RGB", (3, 2)).save(tmp_path / "p.png")
    (tmp_path / "link.png").symlink_to("p.png")
    assert open_rgb(tmp_path / "link.png").size == (3, 2)


def test_impossible_paths(tmp_path):
    for path in ("a\0b", tmp_path / ("n" * 300)):
        with pytest.raises(UnreadableImage, match="cannot be read"):
            read_rgb(path)


def test_arrays_that_cannot_be_converted(tmp_path):
    class OnAnotherDevice:
        def __array__(self, *args, **kwargs):
            raise TypeError("it is on another device")

    with pytest.raises(UnreadableImage, match=r"image 3 cannot be read \(it is on another device\)"):
        read_rgb(OnAnotherDevice(), "image 3")


def test_stretch_maps_the_maximum_to_white(tmp_path):
    values = np.array([[0, 1000], [2048, 4095]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    dark, bright = (np.asarray(open_rgb(tmp_path / "a.png", stretch=stretch))[..., 0] for stretch in (False, True))
    np.testing.assert_array_equal(dark, [[0, 4], [8, 16]])
    np.testing.assert_array_equal(bright, [[0, 62], [128, 255]])
    Image.fromarray(np.full((2, 2, 3), 9, np.uint8)).save(tmp_path / "b.png")  # 8-bit images are unchanged
    assert np.asarray(open_rgb(tmp_path / "b.png", stretch=True)).max() == 9


@pytest.mark.parity
def test_heic(tmp_path):
    pytest.importorskip("pillow_heif", reason="pillow-heif is not installed (extra heif)")
    assert image_endings() >= HEIF
    ramp = Image.linear_gradient("L").resize((60, 48)).convert("RGB")  # black at the top, white at the bottom
    ramp.save(tmp_path / "a.heic", quality=95)
    found = open_rgb(tmp_path / "a.heic", upright=True)
    assert found.size == (60, 48) and np.abs(np.int32(found) - np.int32(ramp)).max() < 12
