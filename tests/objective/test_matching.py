"""Compares both matchers with scipy on arbitrary costs, and tests non-finite values."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh
from scipy.optimize import linear_sum_assignment

from yolos_jax.errors import InputError
from yolos_jax.objective import matching
from yolos_jax.objective.losses import Targets, set_loss
from yolos_jax.objective.matching import MATCHERS, match

match_both = {matcher: jax.jit(lambda c, n, m=matcher: match(c, n, m)) for matcher in MATCHERS}


@given(st.integers(0, 2**32 - 1), st.sampled_from([(6, 4), (6, 6), (6, 9)]), st.booleans())
def test_matches_scipy_for_every_shape(seed, shape, ties):
    rng = np.random.default_rng(seed)
    queries, most = shape
    cost = rng.normal(size=(3, queries, most)).astype(np.float32) * 10
    cost = cost.round() if ties else cost
    count = rng.integers(0, most + 1, 3).astype(np.int32)
    for found in match_both.values():
        query = np.asarray(found(cost, count).query)
        for image, n in enumerate(count):
            rows, columns = linear_sum_assignment(cost[image, :, :n])
            mine = np.flatnonzero(query[image] >= 0)
            assert len(mine) == len(rows) == len(set(query[image, mine].tolist())) and (mine < n).all()
            total = cost[image, query[image, mine], mine].sum()
            np.testing.assert_allclose(total, cost[image, rows, columns].sum(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("targets", [0, 7, 8, 9, 32, 33, 40])
def test_padding_targets_do_not_change_the_matching(targets):
    """Here, the matcher `device` is compiled for 8, 32 and 40 targets."""
    rng = np.random.default_rng(targets)
    cost, count = rng.normal(size=(2, 60, 40)).astype(np.float32), np.array([targets, targets // 2], np.int32)
    query = np.asarray(match_both["device"](cost, count).query)
    for image, n in enumerate(count):
        rows, columns = linear_sum_assignment(cost[image, :, :n])
        np.testing.assert_array_equal(query[image, columns], rows)
        assert (query[image, n:] == -1).all()


@pytest.mark.parametrize("targets, size", [(1, 8), (8, 8), (9, 32), (32, 32), (33, 40)])
def test_uses_the_smallest_sufficient_program(monkeypatch, targets, size):
    def first(size, cost, count):
        return jnp.full((len(cost), cost.shape[2] + 1), size, jnp.int32)

    monkeypatch.setattr(matching, "_match_first", first)
    query = np.asarray(match(jnp.zeros((2, 60, 40)), jnp.array([1, targets]), "device").query)
    assert (query[0, 0], query[1, targets - 1]) == (size, size)


@pytest.mark.parametrize("matcher", MATCHERS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_costs_are_flagged_and_match_nothing(matcher, value):
    cost = np.zeros((3, 4, 2), np.float32)
    cost[1, 2, 0] = value
    cost[2, :, 1] = np.nan  # a padding column, whose values do not matter
    query, finite, _ = match_both[matcher](cost, np.array([2, 2, 1], np.int32))
    assert np.asarray(finite).tolist() == [True, False, True]
    assert (np.asarray(query)[1] == -1).all() and (np.asarray(query)[0] >= 0).all()


def test_non_finite_logits_are_flagged():
    logits = jnp.zeros((2, 4, 3)).at[1, 0, 0].set(jnp.nan)
    boxes = jnp.full((2, 4, 4), 0.5)
    targets = Targets(
        jnp.zeros((2, 1), jnp.int32), jnp.full((2, 1, 4), 0.25), jnp.ones(2, jnp.int32), jnp.ones(2, bool)
    )
    _, matching = jax.jit(lambda x: set_loss(x, boxes, targets, 2))(logits)
    assert np.asarray(matching.finite).tolist() == [True, False]


def test_empty_slots_do_not_affect_the_loss():
    rng = np.random.default_rng(0)
    logits, boxes = rng.normal(size=(4, 5, 3)).astype(np.float32), rng.uniform(0.2, 0.4, (4, 5, 4)).astype(np.float32)
    labels, goal = rng.integers(0, 2, (4, 2)).astype(np.int32), rng.uniform(0.2, 0.4, (4, 2, 4)).astype(np.float32)
    count = np.array([2, 1, 2, 2], np.int32)
    loss_of = jax.jit(set_loss, static_argnums=3)
    for group in (1, 2):
        full, _ = loss_of(logits[:2], boxes[:2], Targets(labels[:2], goal[:2], count[:2], np.ones(2, bool)), group)
        valid = np.array([True, True, False, False])
        padded, _ = loss_of(logits, boxes, Targets(labels, goal, count, valid), group)
        np.testing.assert_allclose(full, padded, rtol=1e-6)


def test_unknown_matcher():
    with pytest.raises(InputError, match="choose one of host, device"):
        match(jnp.zeros((1, 2, 2)), jnp.ones(1, jnp.int32), "magic")


@pytest.mark.parametrize("devices", [1, 4])
def test_reports_the_time_on_the_host(devices):
    """The matcher `host` reports the time spent on each image; the matcher `device` reports zeros."""
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    cost = jnp.asarray(np.random.default_rng(0).normal(size=(4, 60, 50)), jnp.float32)
    start = time.perf_counter()
    seconds = np.asarray(jax.jit(lambda c, n: match(c, n, "host", mesh))(cost, jnp.full(4, 50)).seconds)
    assert (seconds > 0).all() and seconds.sum() < devices * (time.perf_counter() - start)
    assert not np.asarray(match(cost, jnp.full(4, 50), "device").seconds).any()
