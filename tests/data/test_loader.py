"""Buckets, groups and batches."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_coco import make_coco

from yolos_jax.data.coco import CocoSource
from yolos_jax.data.loader import Geometry, batches, evaluation_groups, training_groups
from yolos_jax.errors import InputError
from yolos_jax.sequence import bucket_edges, pack, rounded_tokens, to_patches

counts = st.lists(st.integers(1, 12), min_size=1, max_size=14)


@given(counts, st.integers(1, 4))
def test_edges_pad_least(values, buckets):
    edges = bucket_edges(values, buckets)
    assert edges == sorted(set(edges)) and len(edges) <= buckets and edges[-1] == max(values)

    def padded(edges):
        return sum(min(e for e in edges if e >= v) for v in values)

    distinct = sorted(set(values))
    every = (c for k in range(1, min(buckets, len(distinct)) + 1) for c in itertools.combinations(distinct, k))
    assert padded(edges) == min(padded(c) for c in every if c[-1] == distinct[-1])


@given(counts, st.integers(1, 4), st.integers(1, 5))
def test_evaluation_sees_every_image_once(tokens, buckets, batch_size):
    groups = evaluation_groups(tokens, batch_size, buckets)
    assert sorted(i for g in groups for i in g.indices) == list(range(len(tokens)))
    assert all(tokens[i] <= g.tokens for g in groups for i in g.indices)
    assert all(len(g.indices) == batch_size for g in groups[:-1]) and len(groups[-1].indices) <= batch_size


@given(counts, st.integers(0, 3), st.integers(0, 3))
def test_training_order_is_a_function_of_seed_and_epoch(tokens, seed, epoch):
    edges = bucket_edges(tokens, 3)
    groups = list(training_groups(tokens, 1, edges, seed, epoch))
    assert groups == list(training_groups(tokens, 1, edges, seed, epoch))
    assert sorted(g.indices[0] for g in groups) == list(range(len(tokens)))
    assert all(tokens[g.indices[0]] <= g.tokens and g.tokens in edges for g in groups)


def test_order_changes_with_seed_and_epoch_and_the_rest_is_dropped():
    orders = {tuple(training_groups([1] * 52, 5, [1], seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4
    assert all(len({i for g in order for i in g.indices}) == 50 for order in orders)


@given(st.integers(1, 100_000))
def test_rounded_tokens_waste_an_eighth_at_most(n):
    assert n <= rounded_tokens(n) <= n * 1.125


def test_patches_are_rows_of_the_picture():
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    patches = to_patches(image)
    np.testing.assert_array_equal(patches[1, 1], image[16:, 16:32])
    packed = pack([image], 8, 1)
    np.testing.assert_array_equal(packed.patches[0, 4].reshape(16, 16, 3), image[16:, 16:32])
    assert packed.grid.tolist() == [[2, 3]] and not packed.patches[0, 6:].any()
    with pytest.raises(InputError, match="multiples of 16"):
        to_patches(image[:30])
    with pytest.raises(InputError, match="raise model.max_side"):
        pack([image], 6, 1, max_side=2)


def test_batches_hold_every_picture_and_its_boxes(tmp_path):
    root = make_coco(tmp_path, sizes=[(64, 48), (48, 64), (100, 40)])
    source = CocoSource(root, "train2017", 10)
    geometry = Geometry.of(48, 96, 16, 84)
    tokens = [geometry.tokens(e.width, e.height) for e in source.examples]
    seen = {}
    for loaded in batches(source, evaluation_groups(tokens, 2, 2), geometry, 2, 3):
        for slot, example in enumerate(loaded.examples):
            seen[example.image_id] = (loaded.batch.grid[slot].tolist(), int(loaded.batch.count[slot]))
        assert loaded.batch.valid.tolist() == [i < len(loaded.examples) for i in range(2)]
    assert seen == {1: ([3, 4], 1), 2: ([4, 3], 1), 3: ([2, 5], 1)}


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_truncated_picture_is_named(tmp_path, policy):
    root = make_coco(tmp_path, sizes=[(64, 48)] * 3)
    broken = root / "train2017" / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:-200])
    source = CocoSource(root, "train2017", 10)
    geometry = Geometry.of(48, 0, 16, 84)
    work = batches(source, evaluation_groups([12] * 3, 3, 1), geometry, 3, 1, policy)
    if policy == "skip":
        (loaded,) = list(work)
        assert [e.image_id for e in loaded.examples] == [1, 3] and loaded.batch.valid.tolist() == [True, True, False]
        assert len(loaded.skipped) == 1 and str(broken) in loaded.skipped[0]
    else:
        with pytest.raises(InputError, match="2.jpg"):
            list(work)


def test_pictures_the_model_cannot_take_are_refused():
    with pytest.raises(InputError, match="model.max_side"):
        Geometry.of(800, 1400, 16, 84)
    with pytest.raises(InputError, match="at least one patch"):
        Geometry.of(8, 0, 16, 84)
    with pytest.raises(InputError, match="at least one patch"):
        Geometry.of(32, -5, 16, 84)
