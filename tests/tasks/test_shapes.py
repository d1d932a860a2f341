"""Compares flips, quarter turns and zoom with numpy, and their boxes with drawn rectangles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from yolos_jax.data.augment import Flip, Pipeline, Resize
from yolos_jax.data.examples import Example
from yolos_jax.tasks.augmentation.shape import QuarterTurn, VerticalFlip, Zoom

sides = st.integers(1, 60)
OPERATIONS = [VerticalFlip(), QuarterTurn(), Zoom(0.7, 0.4)]
many = st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), min_size=1, max_size=12).map(np.array)


@st.composite
def rectangles(draw):
    """An image of noise (values below 200) with a white rectangle, and the rectangle's box."""
    width, height = draw(sides), draw(sides)
    x = sorted(draw(st.lists(st.integers(0, width), min_size=2, max_size=2, unique=True)))
    y = sorted(draw(st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True)))
    pixels = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 200, (height, width, 3)).astype(np.uint8)
    pixels[y[0] : y[1], x[0] : x[1]] = 255
    boxes = np.float32([[x[0], y[0], x[1], y[1]]])
    return pixels, Example(0, "", width, height, boxes, np.int32([3]), np.float32([7]))


def bounds(pixels):
    """xyxy of the white rectangle."""
    rows, columns = np.nonzero(pixels[..., 0] == 255)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def applied(operation, pixels, example, numbers):
    numbers = np.int32(numbers)
    found = np.asarray(operation.pixels(Image.fromarray(pixels), numbers))
    viewed = operation.boxes(example, numbers)
    assert found.shape == (viewed.height, viewed.width, 3)
    return found, viewed


@given(rectangles())
def test_vertical_flip(pair):
    found, viewed = applied(VerticalFlip(), *pair, [1])
    np.testing.assert_array_equal(found, np.flip(pair[0], 0))
    np.testing.assert_array_equal(viewed.boxes, [bounds(found)])
    unchanged, same = applied(VerticalFlip(), *pair, [0])
    np.testing.assert_array_equal(unchanged, pair[0])
    assert same is pair[1]


@given(rectangles(), st.integers(0, 3))
def test_quarter_turn(pair, quarters):
    found, viewed = applied(QuarterTurn(), *pair, [quarters])
    np.testing.assert_array_equal(found, np.rot90(pair[0], quarters))
    np.testing.assert_array_equal(viewed.boxes, [bounds(found)])
    assert viewed.boxes.dtype == np.float32 and viewed.area == 7 and viewed.labels == 3


@given(rectangles(), st.data())
def test_zoom_crops(pair, data):
    pixels, example = pair
    left, top = data.draw(st.integers(0, example.width - 1)), data.draw(st.integers(0, example.height - 1))
    width = data.draw(st.integers(1, example.width - left))
    height = data.draw(st.integers(1, example.height - top))
    found, viewed = applied(Zoom(1.0, 0.5), pixels, example, [left, top, width, height])
    np.testing.assert_array_equal(found, pixels[top : top + height, left : left + width])
    if (found == 255).all(2).any():
        np.testing.assert_array_equal(viewed.boxes, [bounds(found)])
        assert viewed.area == (found == 255).all(2).sum() and viewed.labels == 3
    else:
        assert len(viewed.boxes) == len(viewed.labels) == len(viewed.area) == 0
    _, same = applied(Zoom(1.0, 0.5), pixels, example, [0, 0, 0, 0])
    assert same is example


@given(many, st.integers(0, 2**40))
def test_zoom_is_inside_the_image_and_not_more_elongated(sizes, seed):
    zoom = Zoom(1.0, 0.4)
    numbers, after = zoom.draw(sizes, np.random.default_rng(seed))
    corner, cut = numbers[:, :2], numbers[:, 2:]
    np.testing.assert_array_equal(after, cut)
    assert (corner >= 0).all() and (cut > 0).all() and (corner + cut <= sizes).all()
    ratio = cut.max(1) / cut.min(1)
    assert (ratio <= sizes.max(1) / sizes.min(1)).all() and ratio.max() <= zoom.ratio(sizes)
    assert (cut >= np.floor(0.4 * sizes)).all()


def test_zoom_fractions_and_positions_are_uniform():
    sizes = np.tile([[1000, 800]], (20_000, 1))
    numbers, after = Zoom(0.25, 0.4).draw(sizes, np.random.default_rng(0))
    chosen = numbers.any(1)
    assert chosen.mean() == pytest.approx(0.25, abs=0.01)
    np.testing.assert_array_equal(after[~chosen], sizes[~chosen])
    share = after[chosen] / [1000, 800]
    np.testing.assert_allclose(share[:, 0], share[:, 1], atol=0.003)  # the aspect ratio is that of the image
    assert share.min() == pytest.approx(0.4, abs=0.01) and share.max() == 1
    assert share.mean() == pytest.approx(0.7, abs=0.01)
    room = sizes[chosen] - after[chosen]
    place = numbers[chosen, :2][room.min(1) > 50] / room[room.min(1) > 50]
    np.testing.assert_allclose(place.mean(0), 0.5, atol=0.02)
    assert place.min() == 0 and place.max() == 1


def test_quarter_turns_are_uniform_and_swap_sides():
    sizes = np.tile([[1000, 800]], (20_000, 1))
    numbers, after = QuarterTurn().draw(sizes, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(numbers[:, 0]) / len(sizes), 0.25, atol=0.01)
    np.testing.assert_array_equal(after[:, 0] == 800, numbers[:, 0] % 2 == 1)
    flipped, same = VerticalFlip(0.3).draw(sizes, np.random.default_rng(0))
    assert flipped.mean() == pytest.approx(0.3, abs=0.01) and same is sizes


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@given(sizes=many, more=many)
def test_rows_do_not_depend_on_later_rows(operation, sizes, more):
    alone, size = operation.draw(sizes, np.random.default_rng(5))
    among, others = operation.draw(np.concatenate([sizes, more]), np.random.default_rng(5))
    np.testing.assert_array_equal(alone, among[: len(sizes)])
    np.testing.assert_array_equal(size, others[: len(sizes)])
    assert alone.dtype == np.int32


@given(many, st.integers(16, 300), st.lists(st.integers(16, 200), min_size=1, max_size=3))
def test_longest_sequence_is_an_upper_bound(sizes, max_side, scales):
    pipeline = Pipeline(Resize(tuple(scales), max_side), (VerticalFlip(), QuarterTurn(), Zoom(0.8, 0.3), Flip()))
    bound = pipeline.longest(sizes)
    assert max(pipeline.views(sizes, 0, epoch).patches(16).max() for epoch in range(20)) <= bound
