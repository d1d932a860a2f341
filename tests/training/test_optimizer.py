"""Learning rates, parameter groups and clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference_pack import arrays, train_config

from yolos_jax.config.recipes import DETECTION, SETTINGS
from yolos_jax.model.yolos import abstract
from yolos_jax.training.optimizer import by_epoch, clip_like_torch, decay_mask, learning_rates, make_optimizer
from yolos_jax.weights.reference import to_reference


def test_learning_rates_match_the_reference():
    z = arrays("lr_schedule.npz")
    for i, (epochs, base, warmup) in enumerate(z["configs"]):
        found = learning_rates(int(epochs), base, float(z["min_lr"]), int(warmup), float(z["warmup_lr"]))
        np.testing.assert_allclose(found, z[f"lr{i}"], atol=1e-9, rtol=0)


def test_learning_rate_is_constant_within_an_epoch_and_after_the_last():
    schedule = by_epoch(np.array([3.0, 2.0]), 4)
    assert [float(schedule(s)) for s in (0, 3, 4, 7, 8, 99)] == [3, 3, 2, 2, 2, 2]


def test_decayed_parameters_match_the_reference():
    config, z = train_config(), arrays("train_trace_r4.npz")
    params = abstract(config)[1]
    marks = jax.tree.map(lambda p, on: np.full(p.shape, on, np.float32), params, decay_mask(params))
    state = to_reference(marks, config)
    decayed = {name for name, value in state.items() if value.all()}
    assert decayed == {*z["group0_head"].tolist(), *z["group2_decay"].tolist()}
    assert {name for name, value in state.items() if not value.any()} == set(z["group1_no_decay"].tolist())


def test_clipping_uses_the_epsilon_of_pytorch():
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    found, _ = clip_like_torch(0.1).update(grads, optax.EmptyState())
    np.testing.assert_allclose(found["a"], 3 * 0.1 / (5 + 1e-6), rtol=1e-6)
    small = {"a": jnp.array([0.03])}
    np.testing.assert_array_equal(clip_like_torch(0.1).update(small, optax.EmptyState())[0]["a"], small["a"])


def test_clip_norm_zero_disables_clipping():
    params = {"class_head": {"bias": jnp.zeros(2)}}
    optimizer = make_optimizer("adamw", lambda step: 0.1, 0.0, 0.0)
    update, _ = optimizer.update({"class_head": {"bias": jnp.array([1e3, -1e-3])}}, optimizer.init(params), params)
    np.testing.assert_allclose(update["class_head"]["bias"], [-0.1, 0.1], rtol=1e-4)


@pytest.mark.parametrize("name", SETTINGS[DETECTION]["optimizer.name"].setting.choices)
def test_every_optimizer_decays_only_the_groups_of_the_reference(name):
    """With zero gradients, only the decayed parameters (matrices and heads) change, by rate times decay."""
    params = {"class_head": {"bias": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}, "fc": {"kernel": jnp.ones((2, 2))}}
    optimizer = make_optimizer(name, lambda step: 0.1, 0.5, 0.0)
    update, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    moved = {key: bool(np.abs(jax.tree.leaves(value)[0]).max() > 0) for key, value in update.items()}
    assert moved == {"class_head": True, "norm": False, "fc": True}
    if name == "adamw":
        np.testing.assert_allclose(update["fc"]["kernel"], -0.05, rtol=1e-6)
    # Updates are proportional to the learning rate, as `rates.with_rates` requires.
    twice, grads = make_optimizer(name, lambda step: 0.2, 0.5, 0.0), jax.tree.map(lambda x: 0.3 * x, params)
    updates = [o.update(grads, o.init(params), params)[0] for o in (optimizer, twice)]
    for one, two in zip(*map(jax.tree.leaves, updates)):
        assert np.abs(one).min() > 0
        np.testing.assert_allclose(two, 2 * one, rtol=1e-6)
