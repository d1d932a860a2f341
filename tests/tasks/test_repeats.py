"""Tests that the copies of repeated images match their factors, and that plans depend only on seed and step."""

import functools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from yolos_jax.data.augment import Crop, Flip, Pipeline, Resize
from yolos_jax.data.detection_batches import detection_work
from yolos_jax.data.examples import Example, ExampleTable
from yolos_jax.data.loader import load_batches
from yolos_jax.data.plan import TrainingPlan
from yolos_jax.images.reading import UnreadableImage
from yolos_jax.tasks.rare_classes import Repeats

DRAW = Pipeline(Resize((32, 48, 64, 80), 112), before=(Flip(), Crop(sides=(48, 64), range=(32, 60))))
factors = st.lists(st.floats(1, 6), min_size=1, max_size=40).map(np.array)
EPOCHS = 3


def copies_of(plan, epoch):
    return np.bincount(plan.places(epoch), minlength=len(plan.sizes))


@given(factors, st.integers(0, 2**40))
def test_epoch_lengths_and_copies_per_image(factors, seed):
    repeats = Repeats(factors)
    for epoch in range(4):
        places = repeats.places(np.random.default_rng([seed, epoch]))
        assert places.dtype == np.int64 and len(places) == repeats.count
        assert places[: len(factors)].tolist() == list(range(len(factors)))
        copies = np.bincount(places, minlength=len(factors))
        assert (copies >= np.floor(factors)).all() and (copies <= np.ceil(factors + 1e-4)).all()
    assert factors.sum() - 1 - 1e-3 < repeats.count <= factors.sum() + 1e-3


def test_mean_copies_match_the_factors():
    """Averaged over 20,000 epochs, the number of copies is the factor, except that their sum is rounded down."""
    # The fractions add up to 2.5, so there are 2 additional copies.
    factors = np.array([1, 1.25, 1.5, 1, 3, 2.75, 1.9, 1.1])
    repeats = Repeats(factors)
    assert repeats.count == 12 + 1
    counts = np.array([np.bincount(repeats.places(np.random.default_rng(seed))) for seed in range(20_000)])
    shares = factors % 1
    np.testing.assert_allclose(counts.mean(0), np.floor(factors) + shares * 2 / 2.5, atol=0.015)
    together = ((counts[:, 1] == 2) & (counts[:, 2] == 2)).mean()
    assert 0.02 < together < 0.2  # every epoch has a new order, so adjacent images can both get a copy


def test_whole_factors_are_not_random():
    repeats = Repeats(np.array([1.0, 3.0, 2.0]))
    for seed in range(5):
        assert repeats.places(np.random.default_rng(seed)).tolist() == [0, 1, 2, 1, 1, 2]


@st.composite
def plans(draw):
    found = draw(factors)
    random = np.random.default_rng(draw(st.integers(0, 99)))
    sizes = random.integers(20, 200, (len(found), 2))
    batch_size = draw(st.integers(1, len(found)))
    make = functools.partial(TrainingPlan, sizes, DRAW, batch_size, draw(st.integers(1, 4)), EPOCHS)
    return functools.partial(make, draw(st.integers(0, 2**33)), repeats=Repeats(found))


@given(plans())
def test_plan_with_repeats(make):
    plan = make()
    assert len(plan) == EPOCHS * (plan.repeats.count // plan.batch_size)
    assert plan.dropped == plan.repeats.count % plan.batch_size
    sent = pickle.loads(pickle.dumps(make()))
    for step in reversed(range(len(plan))):  # in any order, as after resuming
        one, other = plan.batch(step), sent.batch(step)
        assert one.indices.tolist() == other.indices.tolist() and one.tokens == other.tokens
        for a, b in zip([*one.views.numbers, one.views.size], [*other.views.numbers, other.views.size]):
            np.testing.assert_array_equal(a, b)
        assert one.views.patches(16).max() <= one.tokens
    for epoch in range(EPOCHS):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        seen = np.bincount(np.concatenate([plan.batch(step).indices for step in steps]), minlength=len(plan.sizes))
        left = copies_of(plan, epoch) - seen
        assert (left >= 0).all() and left.sum() == plan.dropped


@given(plans(), st.data())
def test_substitutes_are_other_images_that_fit(make, data):
    plan = make()
    batch = plan.batch(data.draw(st.integers(0, len(plan) - 1)))
    wanted = batch.image(data.draw(st.integers(0, len(batch.indices) - 1)))
    views, places = plan.views(batch.step // plan.steps_per_epoch), plan.places(batch.step // plan.steps_per_epoch)
    fits = (views.patches(16) <= batch.tokens) & (places != wanted.place)
    found = []
    while (other := plan.substitute(batch, wanted, len(found))) is not None:
        assert other.place != wanted.place and other.view.patches(16) <= batch.tokens
        found.append(other.place)
    assert sorted(found) == sorted(places[fits].tolist())


def test_repeats_keep_the_first_views_and_draw_new_ones_for_copies():
    sizes = np.random.default_rng(0).integers(60, 200, (30, 2))
    plain = TrainingPlan(sizes, DRAW, 4, 3, 2, 7)
    repeated = TrainingPlan(sizes, DRAW, 4, 3, 2, 7, repeats=Repeats(np.full(30, 2.5)))
    before, after = plain.views(1), repeated.views(1)
    for one, other in zip([*before.numbers, before.size], [*after.numbers, after.size]):
        np.testing.assert_array_equal(one, other[:30])
    assert repeated.steps_per_epoch == 75 // 4
    rows = np.concatenate([*after.numbers], axis=1)
    copies = rows[repeated.places(1) == 3]
    assert len(copies) >= 2 and len(np.unique(copies, axis=0)) == len(copies)


@pytest.mark.parametrize("draw", [DRAW, Pipeline(Resize((48,), 96))], ids=["augmented", "plain"])
def test_factors_of_one_do_not_change_the_plan(draw):
    sizes = np.random.default_rng(0).integers(60, 200, (30, 2))
    off = TrainingPlan(sizes, draw, 4, 3, 2, 7)
    ones = TrainingPlan(sizes, draw, 4, 3, 2, 7, repeats=Repeats(np.ones(30)))
    assert off.edges == ones.edges and len(off) == len(ones)
    for step in range(len(off)):
        one, other = off.batch(step), ones.batch(step)
        assert one.indices.tolist() == other.indices.tolist() and one.tokens == other.tokens
        np.testing.assert_array_equal(one.views.size, other.views.size)
        pair = off.substitute(one, one.image(0), 1), ones.substitute(other, other.image(0), 1)
        assert pair[0].place == pair[1].place and pair[0].view.size.tolist() == pair[1].view.size.tolist()


class _Source:
    """Grey images, some of which cannot be read."""

    def __init__(self, count, broken):
        none = np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, np.float32)
        self.examples = ExampleTable([Example(i, str(i), 64, 48, *none) for i in range(count)])
        self.broken = broken

    def read(self, example):
        if example.image_id in self.broken:
            raise UnreadableImage(f"{example.file} is broken.")
        return Image.new("RGB", (64, 48), (example.image_id,) * 3)


def test_loader_reads_the_right_image_for_every_copy():
    source = _Source(10, {4})
    plan = TrainingPlan(
        source.examples.sizes, DRAW, 4, 2, 2, 0, repeats=Repeats(np.array([1, 1, 1, 2, 3, 1, 1, 1, 1, 2.0]))
    )
    batches = list(load_batches(detection_work(source, plan, 16, 7), 0, len(plan)))
    for step, loaded in enumerate(batches):
        planned = plan.batch(step)
        skipped = (planned.indices == 4).sum()
        assert len(loaded.skipped) == skipped and 4 not in loaded.indices
        assert (loaded.batch.patches[:, 0, 0] == loaded.indices).all()  # the grey value of an image is its index
        assert set(planned.indices[planned.indices != 4].tolist()) <= set(loaded.indices.tolist())
    assert sum(len(loaded.skipped) for loaded in batches) >= 4
