"""Tests annotated images: labels are legible, stay inside the image, and do not overlap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from yolos_jax.inference import drawing

SIZES = [(640, 425), (480, 640), (512, 512), (4000, 2656)]


def crowd(size, n, seed=0, spread=0.2):
    """Generates boxes around the centre, some partly outside the image, with random labels."""
    rng = np.random.default_rng(seed)
    centre, half = rng.normal(0.5, spread, (n, 2)), rng.uniform(0.02, 0.3, (n, 2))
    boxes = np.concatenate([centre - half, centre + half], axis=1) * np.tile(size, 2)
    texts = ["".join(rng.choice(list("abcdefg "), rng.integers(2, 14))) + " 0.50" for _ in range(n)]
    return boxes, rng.integers(0, 91, n), texts


def rectangles(size, boxes, texts):
    labels = drawing.place_labels(size, drawing.inside(boxes, size), texts)
    return [label.rectangle for label in labels if label is not None]


def overlap(a, b):
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n, spread", [(5, 0.2), (60, 0.2), (60, 0.01)])
def test_labels_stay_inside_the_image_and_do_not_overlap(size, n, spread):
    placed = rectangles(size, *crowd(size, n, spread=spread)[::2])
    assert len(placed) == n, "all labels fit"
    for x0, y0, x1, y1 in placed:
        assert 0 <= x0 < x1 <= size[0] and 0 <= y0 < y1 <= size[1]
    assert not any(overlap(a, b) for i, a in enumerate(placed) for b in placed[:i])


def test_labels_that_do_not_fit_are_omitted():
    boxes, classes, texts = crowd((480, 100), 100)
    placed = rectangles((480, 100), boxes, texts)
    assert 10 < len(placed) < 100
    assert not any(overlap(a, b) for i, a in enumerate(placed) for b in placed[:i])
    assert drawing.draw_boxes(Image.new("RGB", (480, 100)), boxes, classes, texts).size == (480, 100)


def test_a_label_touches_its_box_if_possible():
    """A label is placed above its box, inside it at the top of the image, or below it if another label is inside."""
    size, text = (640, 480), ["cat 0.90"]
    (above,) = rectangles(size, np.array([[100, 100, 300, 200]]), text)
    assert above[0] == 100 and above[3] == 100
    (inside,) = rectangles(size, np.array([[100, 0, 300, 200]]), text)
    assert inside[:2] == (100, 0)
    flat = np.array([[100, 3, 300, 12]] * 2)
    _, below = rectangles(size, flat, text * 2)
    assert below[:2] == (100, 13) or below[1] <= 12


@given(st.integers(1, 3000), st.integers(1, 3000), st.text(max_size=60), st.integers(0, 2**31))
def test_arbitrary_images_and_names(width, height, text, seed):
    size = (width, height) if width * height < 10**6 else (width, 1)
    boxes = np.random.default_rng(seed).uniform(-0.5, 1.5, (3, 4)) * np.tile(size, 2)
    factor = drawing.enlargement(size)
    grown = (size[0] * factor, size[1] * factor)
    for x0, y0, x1, y1 in rectangles(grown, boxes * factor, [text] * 3):
        assert 0 <= x0 < x1 <= grown[0] and 0 <= y0 < y1 <= grown[1]


def test_text_and_lines_grow_with_the_image():
    sides = [480, 640, 800, 1333, 2000, 4000, 8000]
    for shape in (lambda s: (s, s * 3 // 4), lambda s: (s // 2, s)):
        sizes = [shape(side) for side in sides]
        for measure in (drawing.font_size, drawing.line_width):
            values = [measure(size) for size in sizes]
            assert values == sorted(values) and values[-1] > 8 * values[0]
        assert all(0.02 < drawing.font_size(size) / max(size) < 0.03 for size in sizes)
    assert drawing.font_size((480, 360)) >= 11


def test_small_images_are_enlarged():
    for long in (1, 7, 64, 479):
        assert 480 <= long * drawing.enlargement((long, long)) < 960
    assert drawing.enlargement((480, 20)) == drawing.enlargement((20, 4000)) == 1


def relative_luminance(colour):
    """Returns the relative luminance as defined in WCAG 2.1, from which contrast ratios are computed."""
    channels = np.asarray(colour) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4) @ [
        0.2126,
        0.7152,
        0.0722,
    ]


def test_text_contrasts_with_its_background():
    for label in range(1000):
        colour = drawing.colour_of(label)
        high, low = sorted([relative_luminance(colour), relative_luminance(drawing.text_colour(colour))])[::-1]
        assert (high + 0.05) / (low + 0.05) >= 4.5
    assert drawing.text_colour((255, 255, 0)) == (0, 0, 0) and drawing.text_colour((0, 0, 128)) == (255, 255, 255)


def test_consecutive_colours_differ():
    colours = np.array([drawing.colour_of(label) for label in range(100)], float)
    for apart in (1, 2, 3):
        assert np.linalg.norm(colours[apart:] - colours[:-apart], axis=1).min() > 60


@pytest.mark.parametrize("size", [(64, 48), (640, 425)])
def test_other_pixels_are_unchanged(size):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), np.uint8))
    before = image.tobytes()
    boxes, classes, texts = crowd(size, 4)
    out = drawing.draw_boxes(image, boxes, classes, texts)
    factor = drawing.enlargement(size)
    grown = (size[0] * factor, size[1] * factor)
    assert out.size == grown and image.tobytes() == before
    changed = (np.asarray(out) != np.asarray(image.resize(grown) if factor > 1 else image)).any(-1)
    assert changed.any()
    corners = drawing.inside(boxes * factor, grown)
    line = drawing.line_width(grown)
    for x0, y0, x1, y1 in corners:
        inner = np.zeros(changed.shape, bool)
        inner[y0 : y1 + 1, x0 : x1 + 1] = True
        inner[y0 + line : y1 + 1 - line, x0 + line : x1 + 1 - line] = False
        changed &= ~inner
    for x0, y0, x1, y1 in rectangles(grown, boxes * factor, texts):
        changed[y0:y1, x0:x1] = False
    assert not changed.any()


def test_the_best_box_is_on_top():
    box = np.array([[10, 40, 60, 90]] * 2)
    out = drawing.draw_boxes(Image.new("RGB", (480, 480)), box, [1, 2], ["a", "b"])
    assert out.getpixel((10, 80)) == drawing.colour_of(1)
