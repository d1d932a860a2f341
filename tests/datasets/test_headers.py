"""Size, orientation and bit depth read from file headers, compared with what Pillow reads from whole files."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from yolos_jax.datasets.headers import ORIENTATION, header_of, read_headers

PIXELS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))


def encoded(kind, orientation=None, **options):
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    if orientation is not None:
        exif[ORIENTATION] = orientation
    file = io.BytesIO()
    PIXELS.save(file, kind, exif=exif, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM"])
@pytest.mark.parametrize("orientation", [None, 1, 3, 6])
def test_files_that_pillow_rotates_are_found(tmp_path, kind, orientation):
    data = encoded(kind, orientation)
    (tmp_path / "image").write_bytes(data)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        turned = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        stays = np.array_equal(turned, np.asarray(image.convert("RGB")))
    (found,) = read_headers([tmp_path / "image"])
    assert found == header_of(data)
    assert not found.problem
    assert (found.orientation == 1) == stays
    assert found.orientation in (1, orientation)
    assert found.upright_size == turned.shape[1::-1]


@pytest.mark.parametrize("spoil", [
    lambda data: data[:2] + b"\xff\xe2\x60\x00" + bytes(0x5FFE) + data[2:],  # a long colour profile
    lambda data: data[:2] + b"\xff\xff\xfe\x00\x04hi" + data[2:],  # a fill byte and a comment
], ids=["profile", "comment"])  # fmt: skip
def test_exif_after_other_segments_is_found(spoil):
    assert header_of(spoil(encoded("JPEG", 8))).orientation == 8


def test_orientation_only_in_xmp_is_found():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    file = io.BytesIO()
    PIXELS.save(file, "JPEG", xmp=xmp)
    assert header_of(file.getvalue()).orientation == 6


def test_exif_after_the_pixels_of_a_png_is_found():
    data = encoded("PNG", 6)
    start = data.index(b"eXIf") - 4
    size = 12 + int.from_bytes(data[start : start + 4], "big")
    moved = data[:start] + data[start + size : -12] + data[start : start + size] + data[-12:]
    assert header_of(moved).orientation == 6


def test_files_that_are_not_images_count_as_upright(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "cut.jpg").write_bytes(encoded("JPEG", 6)[:30])
    (tmp_path / "text.jpg").write_text("no image")
    names = ["empty.jpg", "cut.jpg", "text.jpg", "absent.jpg", "null\0.jpg"]
    found = read_headers([str(tmp_path / name) for name in names])
    assert all(header[:3] == ((0, 0), 1, False) for header in found)
    for name, header in zip(names, found):
        assert name in header.problem


def test_pixels_are_not_decoded(monkeypatch):
    file = io.BytesIO()
    PIXELS.save(file, "PNG")
    encodings = file.getvalue(), encoded("JPEG", 6), encoded("WEBP", 6)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert [header_of(data).orientation for data in encodings] == [1, 6, 6]


def test_sixteen_bit_images_are_recognised():
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(file, "PNG")
    assert header_of(file.getvalue()).sixteen and not header_of(encoded("JPEG", 1)).sixteen
