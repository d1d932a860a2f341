"""Options of the training step: precision, rematerialisation, accumulation, moving average."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from micro_run import assert_equal_trees, initial_state, without_key_biases
from micro_step import CONFIG, MESH, batch_of

from benchmarks.traced_products import inner_jaxprs
from yolos_jax.data.examples import TrainBatch
from yolos_jax.distributed.mesh import data_mesh, split_over
from yolos_jax.model.config import Compute
from yolos_jax.model.yolos import abstract, apply, build
from yolos_jax.objective import matching
from yolos_jax.objective.weights import LossWeights
from yolos_jax.tasks.detection import batch_divisors, detection_loss
from yolos_jax.training.optimizer import make_optimizer
from yolos_jax.training.rates import make_average
from yolos_jax.training.step import make_gradient, make_step
from yolos_jax.weights.reference import to_reference


def eight():
    """Eight images; no two pairs (2k, 2k + 1) have the same numbers of boxes in the same order."""
    return TrainBatch(*(np.concatenate([x, x[::-1]]) for x in batch_of()))


@functools.cache
def gradient_of(compute=None, matcher="device", devices=1, parts=1):
    """A compiled function (params, batch) -> (gradients, report)."""
    mesh = data_mesh(jax.devices()[:devices])
    loss = detection_loss(abstract(CONFIG, compute or Compute())[0], 1, matcher, mesh, LossWeights())
    return jax.jit(make_gradient(loss, batch_divisors(1), mesh, parts))


def gradients(**changes):
    """Gradients and loss terms of the batch, with the given compute options."""
    params = build(CONFIG, 0, "from_nothing")[1]
    grads, report = gradient_of(Compute(**changes))(params, eight())
    return jax.tree.map(np.asarray, (grads, report.terms))


@pytest.fixture(scope="module")
def plain():
    return gradients()


def test_rematerialisation_does_not_change_the_gradients(plain):
    grads, terms = gradients(remat=True)
    # XLA fuses the operations differently, so the last bits may differ.
    assert terms["total"] == pytest.approx(plain[1]["total"], rel=1e-6)
    scale = max(np.abs(g).max() for g in jax.tree.leaves(plain[0]))
    assert_equal_trees(grads, plain[0], atol=1e-6 * scale)


def test_bfloat16_gradients_are_close_and_float32(plain):
    grads, terms = gradients(compute_dtype="bfloat16")
    assert all(g.dtype == np.float32 for g in jax.tree.leaves(grads)) and terms["total"].dtype == np.float32
    assert 0 < abs(terms["total"] - plain[1]["total"]) < 0.02 * plain[1]["total"]
    flat = [np.concatenate([g.ravel() for g in jax.tree.leaves(t)]) for t in (grads, plain[0])]
    assert flat[0] @ flat[1] > 0.99 * np.linalg.norm(flat[0]) * np.linalg.norm(flat[1])


def products(jaxpr):
    """The matrix products of a traced function and of all functions that it calls."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in inner_jaxprs(equation.params):
            yield from products(inner)


def test_bfloat16_is_used_in_all_matrix_products():
    graph, params = abstract(CONFIG, Compute(compute_dtype="bfloat16"))[0], build(CONFIG, 0)[1]
    batch = batch_of()
    program = jax.make_jaxpr(lambda p: apply(graph, p, batch.patches, batch.grid))(params).jaxpr
    dtypes = [[str(v.aval.dtype) for v in (*product.invars, *product.outvars)] for product in products(program)]
    # qkv, proj, fc1, fc2 of the stacked blocks; q, kv, proj, fc1, fc2 of the last block; patch embedding
    assert dtypes.count(["bfloat16"] * 3) == 4 + 5 + 1
    # Scores and weighted values in both kinds of attention: bfloat16 inputs, accumulated in float32.
    assert dtypes.count(["bfloat16", "bfloat16", "float32"]) == 2 * 2
    out = jax.eval_shape(lambda p: apply(graph, p, batch.patches, batch.grid), params)
    assert out.logits.dtype == out.boxes.dtype == jnp.float32


def test_accumulation_matches_the_whole_batch(plain):
    """Some images have no boxes and others several, so that the normalisers of the parts differ."""
    params = build(CONFIG, 0, "from_nothing")[1]
    scale = max(np.abs(g).max() for g in jax.tree.leaves(plain[0]))
    grads, report = jax.tree.map(np.asarray, gradient_of(devices=2, parts=4)(params, eight()))
    for name, value in plain[1].items():
        np.testing.assert_allclose(report.terms[name], value, rtol=1e-5)
    assert report.finite.all() and report.finite.shape == (8,)
    assert_equal_trees(without_key_biases(grads), without_key_biases(plain[0]), atol=1e-5 * scale)


def test_accumulation_reports_the_right_image():
    """Two devices with four parts each; the bad image is on the first or on the second device."""
    for bad in (2, 5):
        batch = eight()
        batch.boxes[bad, 0, 0] = np.nan
        _, report = gradient_of(devices=2, parts=4)(build(CONFIG, 0)[1], batch)
        assert report.finite.tolist() == [image != bad for image in range(8)]


def test_moving_average_and_a_skipped_step():
    params = build(CONFIG, 0, "from_nothing")[1]
    optimizer = make_optimizer("adamw", lambda step: 1e-2, 1e-4, 0.1)
    loss = detection_loss(abstract(CONFIG)[0], 1, "device", MESH, LossWeights())
    step = make_step(make_gradient(loss, batch_divisors(1), MESH), optimizer, MESH, make_average(0.9))
    state, report = step(initial_state(params, optimizer, MESH, ema=True), batch_of())
    want = jax.tree.map(lambda old, new: (2 / 11) * old + (9 / 11) * np.asarray(new), params, state.params)
    assert report.applied and int(state.step) == 1
    assert_equal_trees(jax.tree.map(np.asarray, state.ema), want, atol=3e-7)
    before = jax.tree.map(np.array, state)
    batch = batch_of()
    batch.boxes[0, 0] = np.inf
    state, report = step(state, batch)
    assert not report.applied
    assert_equal_trees(jax.tree.map(np.asarray, state), before)


def test_four_devices_equal_one_and_match_only_their_own_images(plain, monkeypatch):
    """Loss and gradients match those of one device. The host matcher runs once per device, on its images only.

    With the device matcher, the compiled gradient has no more collectives than with the host matcher.
    """
    params = build(CONFIG, 0, "from_nothing")[1]
    batch = jax.device_put(eight(), split_over(data_mesh(jax.devices()[:4])))
    counts, seen, solve = {}, [], matching.solve_on_host

    def watch(cost, count):
        seen.append(np.asarray(count).tolist())
        return solve(cost, count)

    monkeypatch.setattr(matching, "solve_on_host", watch)
    for matcher in ("device", "host"):
        program = gradient_of(matcher=matcher, devices=4).lower(params, batch).compile()
        found = re.findall(r" (?:all-reduce|all-gather|collective-permute|all-to-all)\(", program.as_text())
        counts[matcher] = len(found)
        grads, report = jax.tree.map(np.asarray, program(params, batch))
        for name, value in plain[1].items():
            np.testing.assert_allclose(report.terms[name], value, rtol=1e-5)
        ours, wanted = (to_reference(without_key_biases(part), CONFIG) for part in (grads, plain[0]))
        for name, value in wanted.items():
            assert np.abs(ours[name] - value).max() <= 1e-5 * max(np.abs(value).max(), 1e-3), name
    assert 0 < counts["device"] <= counts["host"]
    assert sorted(seen) == [[0, 2], [1, 3], [2, 0], [3, 1]]
