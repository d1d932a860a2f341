"""Tests that plans, mixing and batches for classification are correct and depend only on the seed."""

import pickle

import numpy as np
import pytest
import scipy
from made_classes import make_classes

from yolos_jax.data.loader import Share
from yolos_jax.datasets.class_folders import ClassFolders
from yolos_jax.errors import InputError
from yolos_jax.tasks.classification.batches import classification_work
from yolos_jax.tasks.classification.mixing import Mixing
from yolos_jax.tasks.classification.plan import InOrderPlan, ShuffledPlan
from yolos_jax.tasks.classification.views import CentreView, RandomView

RATES = np.array([0.0, 0.25, 0.5], np.float32)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return ClassFolders(make_classes(tmp_path_factory.mktemp("data"), "train", 8), "train")


def test_epoch_has_every_image_once_except_leftovers():
    plan = ShuffledPlan(22, 4, 2, seed=3)
    assert (len(plan), plan.steps_per_epoch, plan.dropped) == (10, 5, 2)
    epochs = [np.concatenate([plan.batch(step).indices for step in range(start, start + 5)]) for start in (0, 5)]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 20 and epoch.max() < 22
    assert (epochs[0] != epochs[1]).any() and plan.batch(7).views.epoch == 1
    again = pickle.loads(pickle.dumps(plan))  # the order depends only on seed and step
    np.testing.assert_array_equal(again.batch(7).indices, plan.batch(7).indices)
    assert (ShuffledPlan(22, 4, 2, seed=4).batch(0).indices != plan.batch(0).indices).any()
    with pytest.raises(InputError, match="3 training images do not fill one batch of 4; decrease train.batch_size"):
        ShuffledPlan(3, 4, 1, 0)


def test_repeated_augmentation():
    plan = ShuffledPlan(24, 8, 1, seed=0, repeats=3)
    seen = []
    for step in range(3):
        slots = plan.batch(step)
        pairs = list(zip(slots.indices.tolist(), slots.views.copies.tolist()))
        assert len(set(pairs)) == 8 and len(set(slots.indices.tolist())) == 3
        assert (slots.indices[::2] != slots.indices[1::2]).all()  # an image is not mixed with itself
        seen += set(slots.indices.tolist())
    assert len(set(seen)) == 9


def test_every_image_is_evaluated_once():
    plan = InOrderPlan(10, 4)
    found = [plan.batch(step).indices.tolist() for step in range(len(plan))]
    assert found == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert plan.substitute(plan.batch(0), plan.batch(0).image(3), 0) is None
    assert InOrderPlan(10, 64, multiple=4).batch_size == 12


def test_mixing_has_the_distribution_of_timm():
    mixing, pairs = Mixing(size=224), 4000
    mixed = mixing.draw(np.random.default_rng(0), 2 * pairs)
    np.testing.assert_array_equal(mixed.share[::2], mixed.share[1::2])
    share, box = mixed.share[::2], mixed.box[::2]
    height, width = box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]
    cut = height * width > 0
    assert abs(cut.mean() - 0.5) < 0.03  # empty boxes are rare
    np.testing.assert_allclose(share[cut], 1 - (height * width)[cut] / 224**2, rtol=1e-6)
    assert box.min() >= 0 and box.max() <= 224
    inner = cut & (box[:, 0] > 0) & (box[:, 2] < 224)
    np.testing.assert_array_equal(height[inner] % 2, 0)
    assert scipy.stats.kstest(share[~cut], scipy.stats.beta(0.8, 0.8).cdf).pvalue > 1e-3
    only = Mixing(size=224, mixup=0.0).draw(np.random.default_rng(0), 200)
    assert (only.box[:, 2] > 0).mean() > 0.9
    never = Mixing(size=224, mix=0.0)
    assert not never and (never.draw(np.random.default_rng(0), 8).share == 1).all()
    half = Mixing(size=224, cutmix=0.0, mix=0.5).draw(np.random.default_rng(0), 2 * pairs)
    assert abs((half.share == 1).mean() - 0.5) < 0.03 and not half.box.any()


def test_batch_contains_the_patches_of_the_images(source):
    plan, viewer = ShuffledPlan(24, 8, 2, seed=1), RandomView(size=32)
    work = classification_work(source, plan, viewer, 16, RATES, Mixing(size=32))
    loaded = pickle.loads(pickle.dumps(work))(4)
    batch, slots = loaded.batch, plan.batch(4)
    assert batch.patches.shape == (8, 4, 768) and batch.patches.dtype == np.uint8
    assert loaded.real == 32 and loaded.bucket == 4 and batch.valid.all()
    np.testing.assert_array_equal(loaded.indices, slots.indices)
    np.testing.assert_array_equal(batch.labels, slots.indices // 8)
    image, _ = source.read(int(slots.indices[5]))
    pixels = viewer.pixels(image, viewer.draw(np.random.default_rng(slots.views.of(5))))
    back = batch.patches[5].reshape(2, 2, 16, 16, 3).transpose(0, 2, 1, 3, 4).reshape(32, 32, 3)
    np.testing.assert_array_equal(back, pixels)
    np.testing.assert_array_equal(loaded.batch.share[::2], loaded.batch.share[1::2])


def test_process_shares_add_up_to_the_batch(source):
    plan, more = ShuffledPlan(24, 8, 1, seed=1), (RandomView(size=32), 16, RATES, Mixing(size=32))
    whole = classification_work(source, plan, *more)(2)
    parts = [classification_work(source, plan, *more, Share(i, 2))(2) for i in range(2)]
    for name, values in whole.batch._asdict().items():
        np.testing.assert_array_equal(values, np.concatenate([getattr(part.batch, name) for part in parts]), name)


def test_stochastic_depth_drop_rates(source):
    work = classification_work(
        source, ShuffledPlan(24, 24, 40, seed=0), RandomView(size=16, operations=0, erase=0), 16, RATES
    )
    keep = np.concatenate([work(step).batch.keep for step in range(40)])  # [960, 3, 2]
    np.testing.assert_allclose(1 - keep.mean((0, 2)), RATES, atol=0.05)
    assert abs(np.corrcoef(keep[:, 2, 0], keep[:, 2, 1])[0, 1]) < 0.1


def test_unreadable_images_are_replaced_only_in_training(tmp_path):
    root = make_classes(tmp_path, "train", 2)
    (root / "train" / "green" / "000.jpg").write_bytes(b"nothing")
    source = ClassFolders(root, "train")
    loaded = classification_work(source, ShuffledPlan(6, 6, 1, 0), RandomView(size=16), 16)(0)
    assert "green/000.jpg" in loaded.skipped[0] and sorted(loaded.indices.tolist()) == [0, 1, 3, 3, 4, 5]
    scored = classification_work(source, InOrderPlan(6, 4), CentreView(16), 16)
    first, last = scored(0), scored(1)
    assert first.indices.tolist() == [0, 1, 3, -1] and first.batch.valid.tolist() == [True, True, True, False]
    assert last.indices.tolist() == [4, 5, -1, -1] and len(first.skipped) == 1
