"""Tests augmentation: boxes match pixels, and random numbers depend only on seed, epoch and index.

The distribution of the random numbers is tested in test_view_distribution.py.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from view_fields import SMALL, Fields

from yolos_jax.data.augment import Crop, Flip, Operation, Pipeline, Resize
from yolos_jax.data.examples import Example
from yolos_jax.errors import InputError

sides = st.integers(24, 90)


@given(sides, sides, st.integers(0, 5), st.integers(0, 10**6))
def test_boxes_match_pixels(width, height, epoch, seed):
    """The box of a white rectangle on a black image matches the white pixels of the view."""
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.choice(width // 4, 2, False)) * 4, np.sort(rng.choice(height // 4, 2, False)) * 4
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[y[0] : y[1], x[0] : x[1]] = 255
    boxes = np.float32([[x[0], y[0], x[1], y[1]]])
    example = Example(0, "", width, height, boxes, np.int32([3]), np.float32([5]))
    pipeline = Pipeline(Resize((64, 96), 128), before=(Flip(), Crop(sides=(48, 96), range=(32, 80))))
    one = pipeline.views(np.array([[width, height]]), seed, epoch).of(0)
    pixels, viewed, view = pipeline.pixels(Image.fromarray(canvas), one), pipeline.boxes(example, one), Fields.of(one)
    assert pixels.shape == (viewed.height, viewed.width, 3) == (*view.size[::-1], 3)
    found = np.argwhere(pixels[..., 0] > 127)
    if not len(viewed.boxes):
        assert view.crop[2] and len(found) <= 2 * pixels.shape[0]  # at most a blurred edge
        return
    x0, y0, x1, y1 = viewed.boxes[0]
    assert 0 <= x0 < x1 <= viewed.width and 0 <= y0 < y1 <= viewed.height
    scale = view.size / (view.crop[2:] if view.crop[2] else [width, height])
    if min((x1 - x0) / scale[0], (y1 - y0) / scale[1]) >= 3:  # thinner rectangles may be blurred too much
        corners = [*found.min(0)[::-1], *(found.max(0)[::-1] + 1)]
        np.testing.assert_allclose(viewed.boxes[0], corners, atol=2 + scale.max())


many_sizes = st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), min_size=1, max_size=12)


@given(many_sizes, many_sizes, st.integers(0, 2**40), st.integers(0, 500))
def test_views_depend_only_on_seed_epoch_and_index(sizes, more, seed, epoch):
    alone, among = SMALL.views(np.array(sizes), seed, epoch), SMALL.views(np.array(sizes + more), seed, epoch)
    for one, other in zip([*alone.numbers, alone.size], [*among.numbers, among.size]):
        np.testing.assert_array_equal(one, other[: len(sizes)])
        assert one.dtype == other.dtype


def test_views_differ_between_seeds_epochs_and_images():
    sizes = np.tile([[640, 480]], (50, 1))
    drawn = [SMALL.views(sizes, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({np.concatenate([np.ravel(f) for f in views.numbers]).tobytes() for views in drawn}) == 4
    assert len(np.unique(drawn[0].size, axis=0)) > 10


@given(many_sizes, st.integers(0, 2**40), st.integers(0, 500))
def test_adding_an_operation_does_not_change_other_numbers(sizes, seed, epoch):
    """Adding an operation that does not change image sizes leaves the random numbers of the others unchanged."""
    sizes = np.array(sizes)
    flip, other, resize = Flip(), Flip(0.5, "again"), Resize((480, 800), 1333)
    alone, among = (Pipeline(resize, before=before).views(sizes, seed, epoch) for before in ((flip,), (other, flip)))
    np.testing.assert_array_equal(alone.numbers[0], among.numbers[1])
    np.testing.assert_array_equal(alone.size, among.size)


def test_operations_with_different_names_draw_different_numbers():
    sizes = np.tile([[640, 480]], (200, 1))
    one, other = Pipeline(Resize((480,), 800), before=(Flip(), Flip(name="again"))).views(sizes, 0, 0).numbers[:2]
    assert 60 < (one != other).sum() < 140
    with pytest.raises(ValueError, match="share random numbers: flip, flip, resize"):
        Pipeline(Resize((480,), 800), before=(Flip(), Flip()))


def test_custom_operation():
    """A custom operation only needs to implement the protocol."""

    class Grey(Operation):
        name = "grey"

        def draw(self, sizes, random):
            return random.integers(0, 256, (len(sizes), 1)).astype(np.int32), sizes

        def pixels(self, image, numbers):
            return Image.new("RGB", image.size, (int(numbers[0]),) * 3)

        def boxes(self, example, numbers):
            return dataclasses.replace(example, labels=example.labels * 0 + numbers[0])

    pipeline, sizes = Pipeline(Resize((32,), 64), before=(Grey(), Flip())), np.array([[64, 48]] * 5)
    views = pipeline.views(sizes, 0, 0)
    assert len(set(views.numbers[0][:, 0].tolist())) > 1 and pipeline.longest(sizes) == 4
    example = Example(0, "", 64, 48, np.float32([[0, 0, 8, 8]]), np.int32([0]), np.float32([64]))
    for i in range(5):
        grey = int(views.numbers[0][i, 0])
        assert (pipeline.pixels(Image.new("RGB", (64, 48)), views.of(i)) == grey).all()
        assert pipeline.boxes(example, views.of(i)).labels.tolist() == [grey]


whole = st.integers(16, 200)


@given(
    many_sizes,
    st.lists(whole, min_size=1, max_size=4),
    st.integers(16, 300),
    st.lists(whole, min_size=1, max_size=3),
    st.tuples(whole, whole).map(sorted),
    st.sampled_from([0.0, 0.5, 1.0]),
)
@example(
    [(200, 32)], [32], 100, [32], [64, 100], 1.0
)  # after the first resize, the image is smaller than the smallest crop
def test_longest_is_an_upper_bound(sizes, scales, max_side, crop_sides, crop_range, crop):
    cut = Crop(crop, tuple(crop_sides), tuple(crop_range))
    pipeline = Pipeline(Resize(tuple(scales), max_side), before=(Flip(), cut))
    bound = pipeline.longest(np.array(sizes))
    assert max(pipeline.views(np.array(sizes), 0, epoch).patches(16).max() for epoch in range(30)) <= bound
    assert bound <= (-(-max_side // 16)) ** 2


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: Resize((), 800), r"data.scales is \(\); values must be at least one patch \(16"),
        (lambda: Resize((480, 8), 800), "data.scales .* at least one patch"),
        (lambda: Crop(sides=()), "data.crop_sides"),
        (lambda: Crop(sides=(-400,)), "data.crop_sides"),
        (lambda: Crop(range=(600, 384)), "data.crop_range .* minimum and maximum"),
        (lambda: Crop(range=(384,)), "data.crop_range .* minimum and maximum"),
        (lambda: Crop(range=(384, 500, 600)), "data.crop_range .* minimum and maximum"),
        (lambda: Crop(range=(0, 600)), "data.crop_range .* at least one patch"),
    ],
)
def test_invalid_sides(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()
