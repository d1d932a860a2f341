"""Runs the yolos-jax programs from `benchmarks.programs` with the inputs of a case."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import Case, Inputs
from benchmarks.common import recipe_of
from benchmarks.launches import calls, tf32_products
from benchmarks.programs import forward, training_step
from yolos_jax.data.examples import TrainBatch
from yolos_jax.distributed.mesh import data_mesh, replicated, split_over
from yolos_jax.errors import counted
from yolos_jax.images.sequence import pack
from yolos_jax.model.config import Compute
from yolos_jax.model.yolos import Outputs, apply
from yolos_jax.training.step import fresh_state


class Work(NamedTuple):
    """A function to run repeatedly, and its compile time in seconds."""

    run: Callable[[], Any]  # returns after the device has finished
    compile_seconds: float
    how: str = ""  # how it is computed: attention, precision, libraries


class Ours:
    """The yolos-jax model with the inputs of a case on one device."""

    def __init__(self, case: Case, params: dict, inputs: Inputs, device: jax.Device, matcher: str = "host"):
        self.case, self.device, self.params = case, device, params
        rows, columns = case.grid
        batch = pack(list(inputs.images), rows * columns, case.batch, case.config.patch_size)
        count, valid = np.full(case.batch, inputs.labels.shape[1], np.int32), np.ones(case.batch, bool)
        self.batch = TrainBatch(batch.patches, batch.grid, inputs.labels, inputs.boxes, count, valid)
        self.recipe = recipe_of(f"yolos_{case.variant}")
        self.recipe.precision = case.dtype
        self.recipe.matcher = matcher
        # One replica, so the cross entropy is normalized over the whole batch, as in transformers.
        self.recipe.train.update(batch_size=case.batch, images_per_replica=case.batch)

    def work(self, name: str) -> Work:
        """Compiles one of `cases.WORKLOADS`."""
        return {"forward": self._forward, "forward_backward": self._forward_backward, "step": self._step}[name]()

    def _forward(self) -> Work:
        """The program of `Detector`, which returns `inference.detector.Queries`."""
        made = forward(self.recipe, [self.device], self.case.config.num_classes)
        size = np.ones((self.case.batch, 2), np.float32)
        return self._work(made.program, made.compute, (self.params, self.batch.patches, self.batch.grid, size))

    def _forward_backward(self) -> Work:
        """The gradient of `plain_loss` through the network, configured as in training."""
        task = training_step(self.recipe, data_mesh([self.device]), self.case.config.num_classes).task

        def loss(params: dict, patches: jax.Array, grid: jax.Array) -> jax.Array:
            return plain_loss(apply(task.graph, params, patches, grid))

        arguments = self.params, self.batch.patches, self.batch.grid
        return self._work(jax.jit(jax.value_and_grad(loss)), task.compute, arguments)

    def _work(self, program: Any, compute: Compute, arguments: Any) -> Work:
        arguments = jax.device_put(arguments, self.device)
        compiled, seconds, how = _compiled(program, compute, self.device, arguments)
        return Work(lambda: jax.block_until_ready(compiled(*arguments)), seconds, how)

    def _step(self) -> Work:
        """The training step of the variant's recipe; a run returns the report of the step."""
        mesh = data_mesh([self.device])
        task, program = training_step(self.recipe, mesh, self.case.config.num_classes)
        fresh = fresh_state(jax.tree.map(jnp.asarray, self.params), task.optimizer)
        states = [jax.device_put(fresh, replicated(mesh))]  # each step donates its state to the next
        batch = jax.device_put(self.batch, split_over(mesh))
        compiled, seconds, how = _compiled(program, task.compute, self.device, (states[0], batch))

        def run() -> Any:
            state, report = compiled(states.pop(), batch)
            states.append(state)
            jax.block_until_ready((state, report))
            return report

        return Work(run, seconds, how)


def _compiled(program: Any, compute: Compute, device: jax.Device, arguments: Any) -> tuple[Any, float, str]:
    """Compiles a program; returns it with its compile time in seconds and a description."""
    start = time.perf_counter()
    compiled = program.lower(*arguments).compile()
    seconds = time.perf_counter() - start
    return compiled, seconds, how(compute, device, compiled.as_text())


def how(compute: Compute, device: jax.Device, hlo: str) -> str:
    """Describes a compiled program: precision, attention, and the library calls in its HLO."""
    attention = f"blocks of {compute.query_block}" if compute.attention == "blocks" else compute.attention
    config: Any = jax.config  # mypy does not know its attributes
    said = [
        f"{compute.compute_dtype}",
        f"attention: {attention}",
        f"matrix products in {config.jax_default_matmul_precision}",
    ]
    if device.platform == "gpu":
        said.append(f"{counted(tf32_products(hlo), 'matrix product')} in TF32")
    found = [f"{counted(count, 'call')} to {name}" for name, count in calls(hlo).items()]
    return ", ".join(said + (found or ["no library calls"]))


def plain_loss(out: Outputs) -> Any:
    """A cheap scalar that depends on all outputs, for measuring the gradient of the network alone."""
    return jnp.square(out.logits).mean() + jnp.square(out.boxes).mean()
