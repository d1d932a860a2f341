"""Takes every image of a source through a function of the network, once."""

from collections.abc import Callable

import jax
import numpy as np

from yolos_jax.data.augment import Pipeline
from yolos_jax.data.detection_batches import detection_work
from yolos_jax.data.loader import Loaded
from yolos_jax.data.plan import EvaluationPlan
from yolos_jax.datasets.dataset import DataSet
from yolos_jax.evaluation.one_pass import Batching, Passes, Program, never
from yolos_jax.images.sequence import Geometry

# (parameters, patches, grid, size) -> arrays with a leading axis of images; `size` [B, 2] is (width, height) in pixels
Observe = Callable[[dict, jax.Array, jax.Array, jax.Array], tuple[jax.Array, ...]]
# (image's place in the source, what the function returned for it)
Take = Callable[[int, tuple[np.ndarray, ...]], None]


class EveryImage:
    """All images of a source, resized for evaluation, in batches over the devices of a mesh.

    Args:
      source: what to read.
      geometry: the size that images are given.
      batching: see `one_pass.Batching`.
      buckets: most token counts to compile for.

    Attributes:
      source, geometry, batching: the arguments.
      processes: those that share the batches.
    """

    def __init__(self, source: DataSet, geometry: Geometry, batching: Batching, buckets: int = 4):
        self.source, self.geometry, self.batching = source, geometry, batching
        pipeline = Pipeline.of(geometry)
        plan = EvaluationPlan(source.examples.sizes, pipeline, batching.batch_size, buckets, batching.mesh.size)
        self._passes = Passes(
            batching,
            lambda share: detection_work(source, plan, geometry.patch, geometry.model_max_side, share),
            len(plan),
            len(source.examples),
            self._inputs,
        )
        self.processes = self._passes.processes

    def program(self, observe: Observe) -> Program:
        """What `run` takes; it may be run with several parameters."""

        def indexed(params: dict, indices: jax.Array, *batch: jax.Array) -> tuple[jax.Array, ...]:
            return indices, *observe(params, *batch)

        return self._passes.program(indexed)

    def run(
        self,
        program: Program,
        params: dict,
        take: Take,
        cancelled: Callable[[], int] = never,
        doing: str = "evaluating",
    ) -> list[str] | None:
        """Hands every image's arrays to `take`, in all processes and in the plan's order; returns as `Passes.run`."""
        done: list[int] = []

        def take_batch(found: tuple[np.ndarray, ...]) -> None:
            for index, *arrays in zip(*found):
                if index >= 0:  # others are empty slots
                    done.append(int(index))
                    take(int(index), tuple(arrays))

        skipped = self._passes.run(program, params, take_batch, cancelled, doing)
        if skipped is None:
            return None
        if len(done) + len(skipped) != len(self.source.examples) or len(set(done)) != len(done):
            raise RuntimeError("an image was missed or evaluated twice; this is a bug")
        return skipped

    def _inputs(self, loaded: Loaded) -> tuple[np.ndarray, ...]:
        """Indices of a batch's images, and what `Observe` takes of them."""
        there = loaded.indices[:, None] >= 0
        size = np.where(there, self.source.examples.sizes[loaded.indices], 1).astype(np.int32)
        return loaded.indices.astype(np.int32), loaded.batch.patches, loaded.batch.grid, size
