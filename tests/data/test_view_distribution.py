"""Compares random views with a simple implementation of the documented pipeline.

Comparisons with the reference are in test_transforms.py.
"""

import functools
import random

import numpy as np
import pytest
import scipy
from view_fields import SMALL, TINY, Fields

from yolos_jax.data.augment import Crop, Flip, Pipeline, Resize
from yolos_jax.images.sequence import Geometry

SURE = 1e-4  # minimum p-value; seeds are fixed, so the tests are deterministic


def slow_size(width: int, height: int, side: int, most: int | None) -> tuple[int, int]:
    """The documented resize rule for a single image."""
    short, long = min(width, height), max(width, height)
    if most is not None and long / short * side > most:
        side = round(most * short / long)
    if short == side:
        return width // 16 * 16, height // 16 * 16
    other = int(side * long / short)
    width, height = (other, side) if width >= height else (side, other)
    return width // 16 * 16, height // 16 * 16


def slow_view(rng: random.Random, width: int, height: int, scales, most: int) -> tuple:
    """A random view of a single image from the documented pipeline: (flip, first, crop, size)."""
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
def many_views(pipeline: Pipeline) -> tuple[np.ndarray, Fields]:
    sizes = np.tile(IMAGES, (ROUNDS, 1))
    return sizes, Fields.of(pipeline.views(sizes, 3, 5))


@pytest.mark.parametrize("pipeline", [SMALL, TINY], ids=["small", "tiny"])
def test_views_are_possible_in_the_documented_pipeline(pipeline):
    sizes, views = many_views(pipeline)
    cropped = views.crop[:, 2] > 0
    assert ((views.first[:, 0] > 0) == cropped).all() and (views.size % 16 == 0).all() and (views.size >= 16).all()
    assert views.size.max() == pipeline.resize.max_side // 16 * 16
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
        assert tuple(size) in {slow_size(w, h, side, pipeline.resize.max_side) for side in pipeline.resize.short_sides}


@pytest.mark.parametrize("pipeline", [SMALL, TINY], ids=["small", "tiny"])
def test_views_are_distributed_as_documented(pipeline):
    """Both implementations have the same distribution of flips, crops and final sizes for each image."""
    sizes, views = many_views(pipeline)
    rng = random.Random(7)
    for image in IMAGES.tolist():
        ours = views.where((sizes == image).all(1))
        slow = [slow_view(rng, *image, pipeline.resize.short_sides, pipeline.resize.max_side) for _ in range(ROUNDS)]
        other = Fields(
            np.array([v[0] for v in slow]),
            np.array([v[1] or (0, 0) for v in slow]),
            np.array([v[2] or (0, 0, 0, 0) for v in slow]),
            np.array([v[3] for v in slow]),
        )
        for key in (kind_of, first_of, crop_of, size_of):
            assert same_distribution(key(ours), key(other)) > SURE, (image, key.__name__)


def kind_of(views: Fields) -> np.ndarray:
    """Whether views are flipped and cropped, encoded as one number; each has probability 1/2, independently."""
    return views.flip + 2 * (views.crop[:, 2] > 0)


def first_of(views: Fields) -> np.ndarray:
    return views.first[:, 0]


def crop_of(views: Fields) -> np.ndarray:
    """Coarse position and size of the crop, encoded as one number."""
    low = np.array([60, 30, 450, 440])
    return ((views.crop >= low) * [1, 2, 4, 8]).sum(1) + 16 * (views.crop[:, 2] > 0)


def size_of(views: Fields) -> np.ndarray:
    """Coarse final size and whether the view is cropped, encoded as one number; scale and crop are independent."""
    return views.size[:, 0] // 64 + 1000 * (views.size[:, 1] // 64) + 1_000_000 * (views.crop[:, 2] > 0)


def same_distribution(a: np.ndarray, b: np.ndarray) -> float:
    """p-value of a chi-square test with rare cells pooled."""
    cells = np.unique(np.concatenate([a, b]))
    table = np.array([[(x == cell).sum() for cell in cells] for x in (a, b)])
    rare = table.sum(0) < 20
    table = np.concatenate([table[:, ~rare], table[:, rare].sum(1, keepdims=True)], axis=1)
    return scipy.stats.chi2_contingency(table[:, table.sum(0) > 0]).pvalue


def test_uniform_draws_include_both_bounds():
    sizes = np.tile([[640, 480]], (30_000, 1))
    views = Fields.of(SMALL.views(sizes, 11, 2))
    assert abs(views.flip.mean() - 0.5) < 0.015
    cropped = views.crop[:, 2] > 0
    assert abs(cropped.mean() - 0.5) < 0.015
    scale, times = np.unique(views.size[~cropped, 1], return_counts=True)
    assert scale.tolist() == list(SMALL.resize.short_sides) and scipy.stats.chisquare(times).pvalue > SURE
    first, times = np.unique(views.first[cropped, 1], return_counts=True)
    assert first.tolist() == [400, 496, 592] and scipy.stats.chisquare(times).pvalue > SURE
    crop, first = views.crop[cropped], views.first[cropped]
    for axis in (0, 1):
        room = first[:, axis] - crop[:, 2 + axis]
        assert (crop[:, axis] == 0).any() and (crop[:, axis] == room).any()
        place = (crop[:, axis] + 0.5) / (room + 1)
        large = room > 60  # otherwise, there are too few positions
        assert scipy.stats.chisquare(np.histogram(place[large], 10, (0, 1))[0]).pvalue > SURE
    for axis, whole in ((0, 528), (0, 656), (0, 800), (1, 400), (1, 496), (1, 592)):
        length = crop[first[:, axis] == whole, 2 + axis]
        value, times = np.unique(length, return_counts=True)
        assert value.tolist() == list(range(384, min(600, whole) + 1)) and scipy.stats.chisquare(times).pvalue > SURE
    same = first[:, 1] == 592  # width and height are independent for a fixed size before cropping
    assert abs(np.corrcoef(crop[same, 2], crop[same, 3])[0, 1]) < 0.06
    assert abs(np.corrcoef(crop[same, 0] / (first - crop[:, 2:])[same, 0], views.flip[cropped][same])[0, 1]) < 0.06


@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
def test_probabilities(p):
    sizes = np.tile([[640, 480]], (8000, 1))
    flip = Fields.of(Pipeline(Resize((512,), 853), before=(Flip(p), Crop(1 - p))).views(sizes, 0, 0))
    bound = 0.03 if 0 < p < 1 else 0
    assert abs(flip.flip.mean() - p) <= bound and abs((flip.crop[:, 2] > 0).mean() - (1 - p)) <= bound


@pytest.mark.parametrize("pipeline", [SMALL, TINY], ids=["small", "tiny"])
def test_longest_is_a_tight_bound(pipeline):
    sizes, views = many_views(pipeline)
    most = (views.size // 16).prod(1).max()
    assert most <= pipeline.longest(sizes) <= 1.05 * most


def test_longest_is_exact_without_augmentation():
    pipeline = Pipeline.of(Geometry.of(800, 0, 16, 84))
    assert pipeline.longest(IMAGES) == pipeline.views(IMAGES, 0, 0).patches(16).max()
