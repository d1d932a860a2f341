"""The work of a case, by this package."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import Case, Inputs
from yolos_jax.config.recipes import DetectionConfig
from yolos_jax.data.examples import TrainBatch
from yolos_jax.distributed.mesh import data_mesh, replicated, split_over
from yolos_jax.images.sequence import pack
from yolos_jax.model.yolos import Outputs, abstract, apply
from yolos_jax.tasks.detection import batch_divisors, detection_loss
from yolos_jax.training.optimizer import make_optimizer
from yolos_jax.training.step import fresh_state, make_gradient, make_step


class Work(NamedTuple):
    """Something to run again and again, and what it took to compile."""

    run: Callable[[], Any]  # returns when the device is done
    compile_seconds: float


class Ours:
    """Our model with a case's inputs on one device."""

    def __init__(self, case: Case, params: dict, inputs: Inputs, device: jax.Device, matcher: str = "host"):
        self.case, self.device, self.params, self.matcher = case, device, params, matcher
        self.graph = abstract(case.config, case.compute)[0]
        rows, columns = case.grid
        batch = pack(list(inputs.images), rows * columns, case.batch, case.config.patch_size)
        count, valid = np.full(case.batch, inputs.labels.shape[1], np.int32), np.ones(case.batch, bool)
        self.batch = TrainBatch(batch.patches, batch.grid, inputs.labels, inputs.boxes, count, valid)

    def work(self, name: str) -> Work:
        """One of `cases.WORKS`, compiled."""
        return {"forward": self._forward, "forward_backward": self._forward_backward, "step": self._step}[name]()

    def _forward(self) -> Work:
        def forward(params: dict, patches: jax.Array, grid: jax.Array) -> tuple[jax.Array, jax.Array]:
            out = apply(self.graph, params, patches, grid)
            return out.logits, out.boxes

        return self._compiled(forward)

    def _forward_backward(self) -> Work:
        def loss(params: dict, patches: jax.Array, grid: jax.Array) -> jax.Array:
            return plain_loss(apply(self.graph, params, patches, grid))

        return self._compiled(jax.value_and_grad(loss))

    def _compiled(self, function: Callable) -> Work:
        arguments = jax.device_put((self.params, self.batch.patches, self.batch.grid), self.device)
        start = time.perf_counter()
        with jax.default_matmul_precision("float32"):  # as recipes and Detector have it; GPUs would use TF32
            program = jax.jit(function).lower(*arguments).compile()
        seconds = time.perf_counter() - start
        return Work(lambda: jax.block_until_ready(program(*arguments)), seconds)

    def _step(self) -> Work:
        """The step of training as a recipe's; its result is the report."""
        defaults = DetectionConfig()
        mesh = data_mesh([self.device])
        groups = self.case.batch  # one process, as the peer: cross entropy over the whole batch
        loss = detection_loss(self.graph, groups, self.matcher, mesh, defaults.loss)
        chosen = defaults.optimizer
        optimizer = make_optimizer(
            chosen.name, lambda step: jnp.float32(chosen.learning_rate), chosen.weight_decay, chosen.clip_norm
        )
        step = make_step(make_gradient(loss, batch_divisors(groups), mesh), optimizer, mesh)
        state = jax.device_put(fresh_state(jax.tree.map(jnp.asarray, self.params), optimizer), replicated(mesh))
        batch = jax.device_put(self.batch, split_over(mesh))
        start = time.perf_counter()
        with jax.default_matmul_precision("float32"):
            program = step.lower(state, batch).compile()
        seconds = time.perf_counter() - start
        states = [state]  # each step gives its state up to the next

        def run() -> Any:
            state, report = program(states.pop(), batch)
            states.append(state)
            jax.block_until_ready((state, report))
            return report

        return Work(run, seconds)


def plain_loss(out: Outputs) -> Any:
    """A scalar of all outputs that costs nothing, for the gradient by itself."""
    return jnp.square(out.logits).mean() + jnp.square(out.boxes).mean()
