"""Tests resized sizes against the reference, patches, and the choice of sequence lengths."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_pack import arrays

from yolos_jax.errors import InputError
from yolos_jax.images.sequence import (
    Geometry,
    bucket_edges,
    ceil_div,
    default_max_side,
    most_patches,
    pack,
    resized_size,
    resized_sizes,
    rounded_tokens,
    to_patches,
)

whole = st.integers(16, 200)


def test_sizes_match_the_reference():
    z = arrays("transforms.npz")
    for side in (512, 800):
        for (w, h), want in zip(z["evsize_in_wh"], z[f"evsize{side}_out_hw"]):
            assert resized_size(int(w), int(h), side, default_max_side(side)) == (want[1], want[0]), (w, h, side)
    for (w, h, side, most), want in zip(z["trsize_in"], z["trsize_out_hw"]):
        found = resized_size(int(w), int(h), int(side), None if most < 0 else int(most))
        assert found == (want[1], want[0]), (w, h, side, most)


def test_resized_sizes_matches_resized_size():
    z = arrays("transforms.npz")
    bounded = z["trsize_in"][z["trsize_in"][:, 3] > 0]
    for most in np.unique(bounded[:, 3]):
        rows = bounded[bounded[:, 3] == most]
        one_by_one = [resized_size(*(int(v) for v in row)) for row in rows]
        assert resized_sizes(rows[:, :2], rows[:, 2], int(most)).tolist() == [list(size) for size in one_by_one]


def test_geometry_size_matches_resized_sizes():
    geometry, sizes = Geometry.of(512, 0, 16, 84), arrays("transforms.npz")["evsize_in_wh"]
    assert geometry.max_side == 853
    many = resized_sizes(sizes, geometry.short_side, geometry.max_side, geometry.patch)
    assert many.tolist() == [list(geometry.size(int(w), int(h))) for w, h in sizes]


def test_default_max_side_matches_the_reference():
    assert [default_max_side(side) for side in (800, 608, 512)] == [1333, 1013, 853]


EXTREME = [(1, 1), (3, 2000), (2000, 1), (9000, 1), (5000, 100), (5040, 61), (10, 3000), (16, 16)]


@pytest.mark.parametrize("size", EXTREME, ids=lambda s: f"{s[0]}x{s[1]}")
def test_extreme_aspect_ratios(size):
    width, height = resized_size(*size, 800, 1333)
    assert width % 16 == height % 16 == 0 and min(width, height) >= 16 and max(width, height) <= 1344


@given(st.integers(1, 100_000))
def test_rounded_tokens_add_at_most_an_eighth(n):
    assert n <= rounded_tokens(n) <= n * 1.125


def test_patches_are_in_row_order():
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    patches = to_patches(image)
    np.testing.assert_array_equal(patches[1, 1], image[16:, 16:32])
    packed = pack([image], 8, 1)
    np.testing.assert_array_equal(packed.patches[0, 4].reshape(16, 16, 3), image[16:, 16:32])
    assert packed.grid.tolist() == [[2, 3]] and not packed.patches[0, 6:].any()
    with pytest.raises(InputError, match="multiples of 16"):
        to_patches(image[:30])
    with pytest.raises(InputError, match="increase model.max_side"):
        pack([image], 6, 1, max_side=2)


def test_images_too_large_for_the_model():
    with pytest.raises(InputError, match="model.max_side"):
        Geometry.of(800, 1400, 16, 84)
    with pytest.raises(InputError, match="at least one patch"):
        Geometry.of(8, 0, 16, 84)
    with pytest.raises(InputError, match="at least one patch"):
        Geometry.of(32, -5, 16, 84)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=14), st.integers(1, 4))
def test_edges_minimise_padding(values, buckets):
    edges = bucket_edges(values, buckets)
    assert edges == sorted(set(edges)) and len(edges) <= buckets and edges[-1] == max(values)

    def padded(edges):
        return sum(min(e for e in edges if e >= v) for v in values)

    distinct = sorted(set(values))
    every = (c for k in range(1, min(buckets, len(distinct)) + 1) for c in itertools.combinations(distinct, k))
    assert padded(edges) == min(padded(c) for c in every if c[-1] == distinct[-1])


@given(whole, st.integers(16, 300), whole, whole)
def test_most_patches_is_a_bound_for_an_aspect_ratio(short_side, max_side, least, more):
    """Compares the bound with all image sizes whose sides are in a range."""
    most = least + more % 40
    sides = np.arange(least, most + 1)
    shapes = np.stack(np.meshgrid(sides, sides), axis=-1).reshape(-1, 2)
    found = (resized_sizes(shapes, short_side, max_side) // 16).prod(1).max()
    bound = most_patches(short_side, max_side, 16, most / least)
    assert found <= bound <= most_patches(short_side, max_side, 16)
    assert most_patches(short_side, max_side, 16, 0.0) == 0


@given(st.integers(0, 10**6), st.integers(1, 10**4))
def test_ceil_div(a, b):
    assert (ceil_div(a, b) - 1) * b < a <= ceil_div(a, b) * b
