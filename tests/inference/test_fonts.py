"""Tests that the letters of class names are drawn and that letters missing from the font are reported."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageFont

from yolos_jax.errors import InputError
from yolos_jax.inference.detections import Detections
from yolos_jax.inference.drawing import draw_boxes
from yolos_jax.inference.fonts import font_of, missing_letters, missing_note

MONO = findfont(FontProperties(family="DejaVu Sans Mono"))


def drawn(text, font=""):
    return np.asarray(draw_boxes(Image.new("RGB", (480, 200)), np.array([[9, 99, 300, 190]]), [1], [text], font))


def test_accented_letters_are_drawn_and_distinct():
    """A font without these letters would draw the same placeholder for each of them."""
    texts = ["été", "ètè", "naïf", "šlo", "łza", "ελα", "кот"]
    pictures = [drawn(text).tobytes() for text in texts]
    assert len(set(pictures)) == len(texts) and missing_letters(texts) == []
    left, right = (drawn(text) for text in ("方", "块"))
    np.testing.assert_array_equal(left, right)  # the font has neither letter


def test_missing_letters_are_reported():
    names = ["方块", "été", "disc 🟠", "方"]
    assert missing_letters(names) == ["块", "方", "🟠"]
    note = missing_note(names, "", "--font")
    assert note == "DejaVu Sans has no glyph for 3 letters in class names (块方🟠); choose another font with --font"
    assert missing_note(["été", "a b"], "", "--font") == "" and missing_letters(["\ud800"]) == []
    assert missing_note(map(chr, range(0x4E00, 0x4E20)), MONO, "--font").count("...") == 1


def test_custom_font(tmp_path):
    """Text is as wide as in the given font, and the file name of the font may contain non-ASCII letters."""
    (tmp_path / "schrift é.ttf").write_bytes(Path(MONO).read_bytes())
    file = str(tmp_path / "schrift é.ttf")
    assert font_of(20, file).getbbox("illi") == ImageFont.truetype(MONO, 20).getbbox("illi")
    assert drawn("illi", file).tobytes() == drawn("illi", MONO).tobytes() != drawn("illi").tobytes()
    found = Detections(np.array([[9, 99, 300, 190.0]]), np.ones(1), np.array([1]), ["illi"], (480, 200))
    assert np.asarray(found.draw(Image.new("RGB", (480, 200)), file)).tobytes() == drawn("illi 1.00", file).tobytes()
    (tmp_path / "text.ttf").write_text("no font")
    for name in ("text.ttf", "absent.ttf"):
        with pytest.raises(InputError, match=f"the font .*{name} cannot be read .* use a .ttf"):
            missing_note(["a"], str(tmp_path / name), "--font")
