"""Tests plans: each image is used once, batches have little padding, and the order depends only on seed and step."""

import functools
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_pack import data_folder

from yolos_jax.data.augment import Crop, Flip, Pipeline, Resize
from yolos_jax.data.plan import EvaluationPlan, TrainingPlan, fill_buckets
from yolos_jax.errors import InputError
from yolos_jax.images.sequence import Geometry, resized_sizes

DRAW = Pipeline(Resize((32, 48, 64, 80), 112), before=(Flip(), Crop(sides=(48, 64), range=(32, 60))))
GEOMETRY = Geometry.of(48, 96, 16, 84)
PLAIN = Pipeline.of(GEOMETRY)
EPOCHS = 3

sizes = st.lists(st.tuples(st.integers(20, 200), st.integers(20, 200)), min_size=1, max_size=60).map(np.array)
draws, seeds = st.sampled_from([DRAW, PLAIN]), st.integers(0, 2**33)


@st.composite
def plans(draw):
    images = draw(sizes)
    batch_size = draw(st.integers(1, len(images)))
    return TrainingPlan(images, draw(draws), batch_size, draw(st.integers(1, 5)), EPOCHS, draw(seeds))


def steps_of(plan, epoch: int) -> list:
    return [plan.batch(epoch * plan.steps_per_epoch + place) for place in range(plan.steps_per_epoch)]


def same(a, b) -> bool:
    """Whether two planned batches are equal."""
    flat = [(x.step, x.tokens, x.indices.tolist(), [f.tolist() for f in arrays_of(x.views)]) for x in (a, b)]
    return flat[0] == flat[1]


def arrays_of(views) -> list[np.ndarray]:
    return [*views.numbers, views.size]


@given(plans())
def test_epoch_has_full_batches_of_different_images(plan):
    assert len(plan) == EPOCHS * plan.steps_per_epoch and plan.edges == sorted(set(plan.edges))
    for epoch in range(EPOCHS):
        views = plan.views(epoch)
        seen = []
        for number, batch in enumerate(steps_of(plan, epoch), epoch * plan.steps_per_epoch):
            assert batch.step == number and len(batch.indices) == plan.batch_size and batch.tokens in plan.edges
            assert batch.views.patches(16).max() <= batch.tokens
            for found, want in zip(arrays_of(batch.views), arrays_of(views)):
                np.testing.assert_array_equal(found, want[batch.indices])
            seen += batch.indices.tolist()
        assert len(set(seen)) == len(seen) and set(seen) <= set(range(len(plan.sizes)))
        assert len(plan.sizes) - len(seen) == plan.dropped < plan.batch_size


@given(plans())
def test_few_images_move_to_a_larger_bucket(plan):
    """At each edge, fewer images than a batch move up to a larger bucket."""
    for epoch in range(EPOCHS):
        counts, tokens = plan.views(epoch).patches(16), np.zeros(len(plan.sizes), int)
        for batch in steps_of(plan, epoch):
            tokens[batch.indices] = batch.tokens
        for edge in plan.edges:
            assert ((counts <= edge) & (tokens > edge)).sum() < plan.batch_size


@given(plans())
def test_plan_depends_only_on_its_arguments(plan):
    again = TrainingPlan(plan.sizes, plan.pipeline, plan.batch_size, len(plan.edges), EPOCHS, plan.seed)
    assert again.edges == plan.edges
    sent = pickle.loads(pickle.dumps(plan))
    wanted = [plan.batch(step) for step in range(len(plan))]
    for step in reversed(range(len(plan))):  # the order of access does not matter
        assert same(again.batch(step), wanted[step]) and same(sent.batch(step), wanted[step])


@pytest.mark.parametrize("draw", [DRAW, PLAIN], ids=["augmented", "plain"])
def test_order_changes_with_seed_and_epoch(draw):
    images = np.random.default_rng(0).integers(40, 200, (53, 2))
    orders = set()
    for seed in (0, 1):
        plan = TrainingPlan(images, draw, 5, 4, 2, seed)
        for epoch in (0, 1):
            batches = steps_of(plan, epoch)
            orders.add(tuple(np.concatenate([batch.indices for batch in batches]).tolist()))
            tokens = [batch.tokens for batch in batches]
            assert tokens not in (sorted(tokens), sorted(tokens)[::-1])  # batches are not sorted by bucket
    assert len(orders) == 4


def test_all_images_are_used_eventually():
    plan = TrainingPlan(np.tile([[64, 48]], (11, 1)), DRAW, 4, 3, 12, 0)
    used = [{i for batch in steps_of(plan, epoch) for i in batch.indices.tolist()} for epoch in range(12)]
    assert all(len(images) == 8 for images in used) and set.union(*used) == set(range(11))


def test_batches_change_between_epochs():
    plan = TrainingPlan(np.tile([[64, 48]], (40, 1)), PLAIN, 4, 1, 2, 0)
    groups = [{frozenset(batch.indices.tolist()) for batch in steps_of(plan, epoch)} for epoch in (0, 1)]
    assert len(groups[0] & groups[1]) <= 1


@given(plans(), st.data())
def test_substitutes_fit_and_are_deterministic(plan, data):
    batch = plan.batch(data.draw(st.integers(0, len(plan) - 1)))
    wanted = batch.image(data.draw(st.integers(0, len(batch.indices) - 1)))
    again = TrainingPlan(plan.sizes, plan.pipeline, plan.batch_size, len(plan.edges), EPOCHS, plan.seed)
    views, tried = plan.views(batch.step // plan.steps_per_epoch), []
    while (found := plan.substitute(batch, wanted, len(tried))) is not None:
        same_one = again.substitute(batch, wanted, len(tried))
        assert found.place == same_one.place and found.view.patches(16) <= batch.tokens
        for one, other, every in zip(arrays_of(found.view), arrays_of(same_one.view), arrays_of(views)):
            np.testing.assert_array_equal(one, other)
            np.testing.assert_array_equal(one, every[found.place])
        tried.append(found.place)
    others = [(wanted.place + 1 + k) % len(plan.sizes) for k in range(len(plan.sizes) - 1)]
    assert tried == [i for i in others if views.patches(16)[i] <= batch.tokens]


def test_too_few_images():
    with pytest.raises(InputError, match="3 training images do not fill one batch of 4; decrease train.batch_size"):
        TrainingPlan(np.tile([[64, 48]], (3, 1)), DRAW, 4, 1, 1, 0)


@given(sizes, st.integers(1, 7), st.integers(1, 5))
def test_evaluation_uses_each_image_once(images, batch_size, buckets):
    plan = EvaluationPlan(images, PLAIN, batch_size, buckets)
    batches = [plan.batch(step) for step in range(len(plan))]
    assert [batch.step for batch in batches] == list(range(len(plan)))
    assert sorted(i for batch in batches for i in batch.indices.tolist()) == list(range(len(images)))
    assert all(len(batch.indices) == batch_size for batch in batches[:-1])
    assert 1 <= len(batches[-1].indices) <= batch_size
    for batch in batches:
        assert batch.tokens in plan.edges and (batch.views.patches(16) <= batch.tokens).all()
        np.testing.assert_array_equal(batch.views.size, resized_sizes(images[batch.indices], 48, 96))
        (numbers,) = batch.views.numbers  # the resize is the only operation
        np.testing.assert_array_equal(numbers, batch.views.size)
        assert plan.substitute(batch, batch.image(0), 0) is None


@given(sizes, st.integers(1, 1000), st.integers(1, 9))
def test_evaluation_batch_size_is_limited_by_the_number_of_images(images, batches, multiple):
    wanted = batches * multiple
    plan = EvaluationPlan(images, PLAIN, wanted, 2, multiple)
    least = next(size for size in range(multiple, 10**6, multiple) if size >= len(images))
    assert plan.batch_size == min(wanted, least)
    assert sum(len(plan.batch(step).indices) for step in range(len(plan))) == len(images)
    assert max(len(plan.batch(step).indices) for step in range(len(plan))) <= plan.batch_size


@given(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.integers(1, 6), st.integers(1, 12))
def test_images_fit_their_buckets(counts, batch_size, step):
    edges = sorted({*range(step, 12, step), 12})
    order = np.random.default_rng(0).permutation
    groups = fill_buckets(np.array(counts), edges, batch_size, order)
    assert sorted(i for _, group in groups for i in group.tolist()) == list(range(len(counts)))
    assert all(counts[i] <= edge for edge, group in groups for i in group)
    assert [len(group) for _, group in groups[:-1]] == [batch_size] * (len(groups) - 1)


# Padding for as many images as in COCO

COCO_IMAGES = 118_000
SMALL = Pipeline(Resize(tuple(range(480, 801, 16)), 1333), before=(Flip(), Crop()))
TINY = Pipeline(Resize(tuple(range(256, 609, 16)), 1013), before=(Flip(), Crop()))


@functools.cache
def real_sizes() -> np.ndarray:
    """Sizes (width, height) of real images, repeated to the number of images in COCO."""
    found = []
    for folder, splits in (("coco128", ["train2017"]), ("coco_tiny80", ["train2017", "val2017"])):
        for split in splits:
            content = json.loads((data_folder(folder) / "annotations" / f"instances_{split}.json").read_text())
            found += [(image["width"], image["height"]) for image in content["images"]]
    return np.resize(np.array(found), (COCO_IMAGES, 2))


@pytest.mark.parametrize(
    "draw, buckets, most",
    [(SMALL, 12, 0.05), (SMALL, 8, 0.075), (TINY, 16, 0.05)],
    ids=["small_12", "small_8", "tiny_16"],
)
def test_padding_of_an_epoch(draw, buckets, most):
    plan = TrainingPlan(real_sizes(), draw, 8, buckets, 150, 0)
    assert len(plan.edges) <= buckets
    for epoch in (0, 149):
        real = computed = 0
        for batch in steps_of(plan, epoch):
            real += sum(int(w) // 16 * (int(h) // 16) for w, h in batch.views.size.tolist())
            computed += batch.tokens * len(batch.indices)
        padding = 1 - real / computed
        assert 0 < padding < most
        assert plan.padding(epoch) == pytest.approx(padding, abs=1e-12)


@pytest.mark.parametrize("draw", [SMALL, TINY], ids=["small", "tiny"])
def test_padding_to_a_common_size_would_exceed_a_quarter(draw):
    """For comparison, pads batches of 8 images in random order to their largest height and width."""
    size = draw.views(real_sizes(), 0, 0).size.astype(np.int64)
    batches = size[np.random.default_rng(0).permutation(len(size))].reshape(-1, 8, 2)
    canvas = 8 * batches.max(1).prod(1)
    assert 1 - batches.prod(2).sum() / canvas.sum() > 0.25


@pytest.mark.parametrize(
    "images, least_steps, most",
    [(48, 4000, 3), (200, 4000, 3), (1000, 4000, 5), (COCO_IMAGES, 0, 12)],
    ids=["48", "200", "1000", "coco"],
)
def test_number_of_buckets_minimises_the_time_of_a_run(images, least_steps, most):
    """No other number of buckets is faster if compiling a program takes as long as 300 steps without padding."""
    epochs = 150 if images == COCO_IMAGES else 50
    shared = SMALL, 8
    plan = TrainingPlan(real_sizes()[:images], *shared, 0, epochs, 0, least_steps)
    assert len(plan) >= least_steps and len(plan.edges) <= most
    if images == COCO_IMAGES:
        assert len(plan.edges) == 12
        return

    def duration(buckets):
        other = TrainingPlan(real_sizes()[:images], *shared, buckets, epochs, 0, least_steps)
        counts = other.views(0).patches(16)
        padded = sum(edge * len(group) for edge, group in fill_buckets(counts, other.edges, 8, np.arange))
        return 300 * len(other.edges) + len(other) * (padded / counts.sum() - 1)

    chosen = len(plan.edges)
    assert duration(chosen) == min(map(duration, range(1, 13)))
    again = TrainingPlan(real_sizes()[:images], *shared, chosen, epochs, 0, least_steps)
    assert again.edges == plan.edges and same(again.batch(len(plan) - 1), plan.batch(len(plan) - 1))


def test_least_steps():
    images = np.tile([[64, 48]], (11, 1))
    assert TrainingPlan(images, PLAIN, 4, 1, 3, 0, least_steps=9).epochs == 5
    assert TrainingPlan(images, PLAIN, 4, 1, 3, 0, least_steps=6).epochs == 3
    assert EvaluationPlan(images, PLAIN, 4, 0).edges == [images[0].prod() // 256]
