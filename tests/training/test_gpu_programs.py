"""Lowers the training step of every variant for GPUs, on a machine without a GPU."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import mlir
from jax.sharding import AbstractMesh, AxisType, Mesh

from yolos_jax.accelerators.choice import check_matcher
from yolos_jax.data.examples import TrainBatch
from yolos_jax.errors import InputError
from yolos_jax.model.config import VARIANTS, variant
from yolos_jax.model.yolos import abstract
from yolos_jax.objective.weights import LossWeights
from yolos_jax.tasks.detection import batch_divisors, detection_loss
from yolos_jax.training.optimizer import make_optimizer
from yolos_jax.training.step import fresh_state, make_gradient, make_step

IMAGES, PATCHES, OBJECTS = 8, 60, 7


def lowered(name, matcher, mesh):
    """The StableHLO of a complete step for CUDA. Two blocks are enough, because blocks are scanned."""
    config = dataclasses.replace(variant(name), depth=2)
    graph, shapes = abstract(config)
    optimizer = make_optimizer("adamw", lambda step: 1e-3, 1e-4, 0.1)
    shape = jax.ShapeDtypeStruct
    batch = TrainBatch(
        shape((IMAGES, PATCHES, config.patch_values), jnp.uint8), shape((IMAGES, 2), jnp.int32),
        shape((IMAGES, OBJECTS), jnp.int32), shape((IMAGES, OBJECTS, 4), jnp.float32),
        shape((IMAGES,), jnp.int32), shape((IMAGES,), jnp.bool_),
    )  # fmt: skip
    loss = detection_loss(graph, 1, matcher, mesh, LossWeights())
    step = make_step(make_gradient(loss, batch_divisors(1), mesh), optimizer, mesh)
    state = jax.eval_shape(lambda params: fresh_state(params, optimizer), shapes)
    return step.trace(state, batch).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("name", VARIANTS)
def test_matcher_on_the_device(name):
    program = lowered(name, "device", AbstractMesh((8,), ("data",), axis_types=(AxisType.Auto,)))
    assert "callback" not in program and "stablehlo.while" in program
    # Each GPU matches one image: the cost matrix has 100 queries and the image's targets.
    assert f"tensor<1x100x{OBJECTS}xf32>" in program and f"tensor<{IMAGES}x100x92xf32>" in program


@pytest.mark.parametrize("name", VARIANTS)
def test_matcher_on_the_host(name, monkeypatch):
    """Lowering a callback needs a backend. Nothing is executed, so the CPU backend is sufficient."""
    monkeypatch.setattr(mlir.ModuleContext, "get_backend", lambda self, optional=False: jax.devices("cpu")[0].client)
    program = lowered(name, "host", Mesh(np.array(jax.devices()[:8]), ("data",)))
    (call,) = [line for line in program.splitlines() if "xla_ffi_partitioned_python_gpu_callback" in line
               or "xla_ffi_python_gpu_callback" in line]  # fmt: skip
    assert f"tensor<1x100x{OBJECTS}xf32>" in call and f"tensor<1x{OBJECTS + 1}xi32>" in call


def test_host_matcher_needs_a_cpu_backend(monkeypatch):
    check_matcher("host")

    def none(*args, **kwargs):
        raise RuntimeError("Unknown backend cpu")

    monkeypatch.setattr(jax, "local_devices", none)
    check_matcher("device")
    with pytest.raises(InputError, match="set JAX_PLATFORMS=cuda,cpu or --config.matcher=device"):
        check_matcher("host")
