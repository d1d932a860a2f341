"""Random views: against a slow account of the documented pipeline. The reference's numbers: test_transforms.py."""

import functools
import random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import chi2_contingency, chisquare

from yolos_jax.data.augment import Augmentation, Views, view_example, view_pixels
from yolos_jax.data.examples import Example
from yolos_jax.errors import InputError

SMALL = Augmentation(tuple(range(480, 801, 16)), 1333)
TINY = Augmentation(tuple(range(256, 609, 16)), 1013)
SURE = 1e-4  # least p value: seeds are fixed, so a test that passes once always does


sides = st.integers(24, 90)


@given(sides, sides, st.integers(0, 5), st.integers(0, 10**6))
def test_boxes_follow_the_pixels(width, height, epoch, seed):
    """A white rectangle on black, found again in the pixels of the view."""
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.choice(width // 4, 2, False)) * 4, np.sort(rng.choice(height // 4, 2, False)) * 4
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[y[0] : y[1], x[0] : x[1]] = 255
    boxes = np.float32([[x[0], y[0], x[1], y[1]]])
    example = Example(0, "", width, height, boxes, np.int32([3]), np.float32([5]))
    draw = Augmentation((64, 96), 128, crop_sides=(48, 96), crop_range=(32, 80))
    view = draw.views(np.array([[width, height]]), seed, epoch).of(0)
    pixels, viewed = view_pixels(Image.fromarray(canvas), view), view_example(example, view)
    assert pixels.shape == (viewed.height, viewed.width, 3) == (*view.size[::-1], 3)
    found = np.argwhere(pixels[..., 0] > 127)
    if not len(viewed.boxes):
        assert view.crop[2] and len(found) <= 2 * pixels.shape[0]  # at most the smear of an edge
        return
    x0, y0, x1, y1 = viewed.boxes[0]
    assert 0 <= x0 < x1 <= viewed.width and 0 <= y0 < y1 <= viewed.height
    scale = view.size / (view.crop[2:] if view.crop[2] else [width, height])
    if min((x1 - x0) / scale[0], (y1 - y0) / scale[1]) >= 3:  # thinner slices may fade
        corners = [*found.min(0)[::-1], *(found.max(0)[::-1] + 1)]
        np.testing.assert_allclose(viewed.boxes[0], corners, atol=2 + scale.max())


def slow_size(width: int, height: int, side: int, most: int | None) -> tuple[int, int]:
    """The documented rule, for one image."""
    short, long = min(width, height), max(width, height)
    if most is not None and long / short * side > most:
        side = round(most * short / long)
    if short == side:
        return width // 16 * 16, height // 16 * 16
    other = int(side * long / short)
    width, height = (other, side) if width >= height else (side, other)
    return width // 16 * 16, height // 16 * 16


def slow_view(rng: random.Random, width: int, height: int, scales, most: int) -> tuple:
    """The documented pipeline, for one image: (flip, first, crop, size)."""
    flip, first, crop = rng.random() < 0.5, None, None
    if rng.random() < 0.5:
        first = slow_size(width, height, rng.choice([400, 500, 600]), None)
        w, h = (rng.randint(384, min(600, side)) for side in first)
        crop = rng.randint(0, first[0] - w), rng.randint(0, first[1] - h), w, h
        width, height = w, h
    return flip, first, crop, slow_size(width, height, rng.choice(scales), most)


IMAGES = np.array([(640, 480), (480, 640), (500, 333), (640, 360), (427, 640), (1000, 300), (200, 200)])
ROUNDS = 4000


@functools.cache
def many_views(draw: Augmentation) -> tuple[np.ndarray, Views]:
    sizes = np.tile(IMAGES, (ROUNDS, 1))
    return sizes, draw.views(sizes, 3, 5)


@pytest.mark.parametrize("draw", [SMALL, TINY], ids=["small", "tiny"])
def test_every_view_is_one_that_the_documented_pipeline_can_draw(draw):
    sizes, views = many_views(draw)
    cropped = views.crop[:, 2] > 0
    assert ((views.first[:, 0] > 0) == cropped).all() and (views.size % 16 == 0).all() and (views.size >= 16).all()
    assert views.size.max() == draw.max_side // 16 * 16
    left, top, width, height = views.crop[cropped].T
    first = views.first[cropped]
    for start, length, whole in ((left, width, first[:, 0]), (top, height, first[:, 1])):
        assert (start >= 0).all() and (start + length <= whole).all()
        assert (length >= 384).all() and (length <= np.minimum(600, whole)).all()
    for (w, h), view in zip(sizes[:4000].tolist(), zip(*(field[:4000].tolist() for field in views))):
        _, first, crop, size = view
        if crop[2]:
            assert tuple(first) in {slow_size(w, h, side, None) for side in (400, 500, 600)}
            w, h = crop[2:]
        assert tuple(size) in {slow_size(w, h, side, draw.max_side) for side in draw.scales}


@pytest.mark.parametrize("draw", [SMALL, TINY], ids=["small", "tiny"])
def test_views_are_distributed_as_documented(draw):
    """Two samples of the same image: ours and the slow one's, compared by flips, crops and final sizes."""
    sizes, views = many_views(draw)
    rng = random.Random(7)
    for image in IMAGES.tolist():
        ours = views.of((sizes == image).all(1))
        slow = [slow_view(rng, *image, draw.scales, draw.max_side) for _ in range(ROUNDS)]
        other = Views(
            np.array([v[0] for v in slow]),
            np.array([v[1] or (0, 0) for v in slow]),
            np.array([v[2] or (0, 0, 0, 0) for v in slow]),
            np.array([v[3] for v in slow]),
        )
        for key in (kind_of, first_of, crop_of, size_of):
            assert same_distribution(key(ours), key(other)) > SURE, (image, key.__name__)


def kind_of(views: Views) -> np.ndarray:
    """Flip and crop together: they are independent, half and half."""
    return views.flip + 2 * (views.crop[:, 2] > 0)


def first_of(views: Views) -> np.ndarray:
    return views.first[:, 0]


def crop_of(views: Views) -> np.ndarray:
    """Where the crop lies and how large it is, coarsely, all four numbers together."""
    low = np.array([60, 30, 450, 440])
    return ((views.crop >= low) * [1, 2, 4, 8]).sum(1) + 16 * (views.crop[:, 2] > 0)


def size_of(views: Views) -> np.ndarray:
    """The final size, coarsely, and whether it comes from a crop (scale and crop are independent)."""
    return views.size[:, 0] // 64 + 1000 * (views.size[:, 1] // 64) + 1_000_000 * (views.crop[:, 2] > 0)


def same_distribution(a: np.ndarray, b: np.ndarray) -> float:
    """p value of a chi-square test; rare cells are pooled."""
    cells = np.unique(np.concatenate([a, b]))
    table = np.array([[(x == cell).sum() for cell in cells] for x in (a, b)])
    rare = table.sum(0) < 20
    table = np.concatenate([table[:, ~rare], table[:, rare].sum(1, keepdims=True)], axis=1)
    return chi2_contingency(table[:, table.sum(0) > 0]).pvalue


def test_uniform_numbers_and_their_ends():
    sizes = np.tile([[640, 480]], (30_000, 1))
    views = SMALL.views(sizes, 11, 2)
    assert abs(views.flip.mean() - 0.5) < 0.015
    cropped = views.crop[:, 2] > 0
    assert abs(cropped.mean() - 0.5) < 0.015
    scale, times = np.unique(views.size[~cropped, 1], return_counts=True)
    assert scale.tolist() == list(SMALL.scales) and chisquare(times).pvalue > SURE
    first, times = np.unique(views.first[cropped, 1], return_counts=True)
    assert first.tolist() == [400, 496, 592] and chisquare(times).pvalue > SURE
    crop, first = views.crop[cropped], views.first[cropped]
    for axis in (0, 1):
        room = first[:, axis] - crop[:, 2 + axis]
        assert (crop[:, axis] == 0).any() and (crop[:, axis] == room).any()
        place = (crop[:, axis] + 0.5) / (room + 1)
        large = room > 60  # coarse steps otherwise
        assert chisquare(np.histogram(place[large], 10, (0, 1))[0]).pvalue > SURE
    for axis, whole in ((0, 528), (0, 656), (0, 800), (1, 400), (1, 496), (1, 592)):
        length = crop[first[:, axis] == whole, 2 + axis]
        value, times = np.unique(length, return_counts=True)
        assert value.tolist() == list(range(384, min(600, whole) + 1)) and chisquare(times).pvalue > SURE
    same = first[:, 1] == 592  # independent of each other where nothing else couples them
    assert abs(np.corrcoef(crop[same, 2], crop[same, 3])[0, 1]) < 0.06
    assert abs(np.corrcoef(crop[same, 0] / (first - crop[:, 2:])[same, 0], views.flip[cropped][same])[0, 1]) < 0.06


@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
def test_probabilities(p):
    sizes = np.tile([[640, 480]], (8000, 1))
    flip = Augmentation((512,), 853, flip=p, crop=1 - p).views(sizes, 0, 0)
    bound = 0.03 if 0 < p < 1 else 0
    assert abs(flip.flip.mean() - p) <= bound and abs((flip.crop[:, 2] > 0).mean() - (1 - p)) <= bound


many_sizes = st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), min_size=1, max_size=12)


@given(many_sizes, many_sizes, st.integers(0, 2**40), st.integers(0, 500))
def test_a_row_is_a_function_of_seed_epoch_and_index(sizes, more, seed, epoch):
    alone, among = SMALL.views(np.array(sizes), seed, epoch), SMALL.views(np.array(sizes + more), seed, epoch)
    for one, other in zip(alone, among):
        np.testing.assert_array_equal(one, other[: len(sizes)])
        assert one.dtype == other.dtype


def test_other_seeds_epochs_and_indices_are_other_views():
    sizes = np.tile([[640, 480]], (50, 1))
    drawn = [SMALL.views(sizes, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({np.concatenate([np.ravel(f) for f in views]).tobytes() for views in drawn}) == 4
    assert len(np.unique(drawn[0].size, axis=0)) > 10


whole = st.integers(16, 200)


@given(
    many_sizes,
    st.lists(whole, min_size=1, max_size=4),
    st.integers(16, 300),
    st.lists(whole, min_size=1, max_size=3),
    st.tuples(whole, whole).map(sorted),
    st.sampled_from([0.0, 0.5, 1.0]),
)
@example([(200, 32)], [32], 100, [32], [64, 100], 1.0)  # the first resize leaves less than the least crop
def test_most_patches_is_a_bound(sizes, scales, max_side, crop_sides, crop_range, crop):
    draw = Augmentation(tuple(scales), max_side, 0.5, crop, tuple(crop_sides), tuple(crop_range))
    bound = draw.most_patches(np.array(sizes))
    assert max(draw.views(np.array(sizes), 0, epoch).patches(16).max() for epoch in range(30)) <= bound
    assert bound <= (-(-max_side // 16)) ** 2


def test_most_patches_is_not_far_above_what_is_drawn():
    sizes, views = many_views(SMALL)
    assert views.patches(16).max() <= SMALL.most_patches(sizes) <= 1.05 * views.patches(16).max()


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"scales": ()}, r"data.scales is \(\)"),
        ({"scales": (480, 8)}, "data.scales .* at least a patch"),
        ({"scales": (480.0,)}, "data.scales .* whole pixels"),
        ({"scales": (True,)}, "data.scales"),
        ({"scales": ("480",)}, "data.scales"),
        ({"crop_sides": ()}, "data.crop_sides"),
        ({"crop_sides": (-400,)}, "data.crop_sides"),
        ({"crop_range": (600, 384)}, "data.crop_range .* the least and the most"),
        ({"crop_range": (384,)}, "data.crop_range .* the least and the most"),
        ({"crop_range": (384, 500, 600)}, "data.crop_range .* the least and the most"),
        ({"crop_range": (0, 600)}, "data.crop_range .* at least a patch"),
        ({"flip": 1.5}, "data.flip is 1.5; it is a probability"),
        ({"flip": -0.1}, "data.flip"),
        ({"crop": float("nan")}, "data.crop is nan"),
    ],
)
def test_bad_values(values, sentence):
    with pytest.raises(InputError, match=sentence):
        Augmentation(**{"scales": (480,), "max_side": 800} | values)
