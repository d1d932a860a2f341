"""The package works with jax's strict settings: no implicit rank promotion and no implicit transfers."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from yolos_jax.data.examples import TrainBatch
from yolos_jax.distributed.mesh import data_mesh, replicated, split_over
from yolos_jax.inference.detector import Detector
from yolos_jax.model.config import Compute, YolosConfig
from yolos_jax.model.yolos import apply, build
from yolos_jax.objective.weights import LossWeights
from yolos_jax.tasks.detection import batch_divisors, detection_loss
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.training.optimizer import make_optimizer
from yolos_jax.training.rates import make_average
from yolos_jax.training.step import fresh_state, make_gradient, make_step

MICRO = YolosConfig(width=32, depth=3, heads=2, init_pe_size=(64, 64), mid_pe_size=(64, 96), num_classes=5)


@contextlib.contextmanager
def strict():
    with jax.numpy_rank_promotion("raise"), jax.transfer_guard("disallow"):
        yield


def test_detector():
    detector = Detector(build(MICRO, 0, "from_nothing")[1], Meta(MICRO, {}), short_side=64)
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    want = detector(image, threshold=0.0)
    jax.clear_caches()
    with strict():
        found = detector(image, threshold=0.0)
        sized = detector.forward([image[:64, :80]])
    np.testing.assert_array_equal(found.boxes, want.boxes)
    assert sized[0].shape == (1, 100, 6)


def test_gradient_of_the_network():
    """The backward pass is traced after `apply` has returned."""
    graph, params = build(MICRO, 0, "from_nothing", Compute(max_side=20))
    batch = np.zeros((2, 6, 768), np.float32), np.array([[2, 3], [3, 2]], np.int32)
    gradient = jax.jit(jax.grad(lambda params, *batch: apply(graph, params, *batch).boxes.sum()))
    arguments = jax.device_put((params, *batch))
    with strict():
        found = gradient(*arguments)
    assert np.isfinite(np.asarray(found["cls_token"])).all()


@pytest.mark.parametrize("matcher", ["host", "device"])
def test_training_step(matcher):
    mesh = data_mesh(jax.devices()[:2])
    graph, params = build(MICRO, 0, "from_nothing", Compute(max_side=20))
    optimizer = make_optimizer("adamw", lambda step: jnp.float32(1e-3), 1e-4, 0.1)
    gradient = make_gradient(detection_loss(graph, 1, matcher, mesh, LossWeights()), batch_divisors(1), mesh)
    step = make_step(gradient, optimizer, mesh, make_average(0.9))
    random = np.random.default_rng(0)
    batch = TrainBatch(
        random.integers(0, 256, (2, 30, 768), np.uint8), np.array([[5, 6], [3, 4]], np.int32),
        random.integers(0, 5, (2, 3)).astype(np.int32), random.uniform(0.3, 0.6, (2, 3, 4)).astype(np.float32),
        np.array([3, 1], np.int32), np.ones(2, bool),
    )  # fmt: skip
    state = jax.device_put(fresh_state(jax.tree.map(jnp.asarray, params), optimizer, ema=True), replicated(mesh))
    batch = jax.device_put(batch, split_over(mesh))
    with strict():
        _, report = step(state, batch)
    assert bool(report.applied)
