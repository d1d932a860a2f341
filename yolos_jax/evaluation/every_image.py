"""Takes every image of a source through a function of the network, once."""

import contextlib
import itertools
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from yolos_jax.data.augment import Pipeline
from yolos_jax.data.examples import DataSet
from yolos_jax.data.loader import Loaded, LoadStep, Share
from yolos_jax.data.plan import EvaluationPlan
from yolos_jax.distributed.processes import Processes, place
from yolos_jax.errors import InputError
from yolos_jax.evaluation.one_pass import never, one_pass
from yolos_jax.images.sequence import Geometry

# (parameters, patches, grid, size) -> arrays with a leading axis of images; `size` [B, 2] is (width, height) in pixels
Observe = Callable[[dict, jax.Array, jax.Array, jax.Array], tuple[jax.Array, ...]]
# (image's place in the source, what the function returned for it)
Take = Callable[[int, tuple[np.ndarray, ...]], None]


class Program:
    """A function of the network, compiled once for each bucket of token counts."""

    def __init__(self, observe: Observe, result: NamedSharding):
        def indexed(params: dict, indices: jax.Array, *batch: jax.Array) -> tuple[jax.Array, ...]:
            return indices, *observe(params, *batch)

        # Every process gets what all of them found: some kilobytes an image.
        self._function = jax.jit(indexed, out_shardings=result)
        self._compiled: dict[int, Any] = {}

    def __call__(self, processes: Processes, params: dict, arrays: list[jax.Array]) -> Any:
        """Runs it; all processes wait for the slowest compilation."""
        tokens = arrays[1].shape[1]
        if tokens not in self._compiled:
            self._compiled[tokens] = processes.agree(self._function.lower(params, *arrays).compile)
        return self._compiled[tokens](params, *arrays)


class EveryImage:
    """All images of a source, resized for evaluation, in batches over the devices of a mesh.

    Args:
      mesh: devices along the axis `data`.
      batch_size: images at a time, a multiple of the devices.
      buckets: most token counts to compile for.
      on_bad_image: "stop" raises `InputError` at an image that cannot be read.
      workers, ahead: see `data.loader.load`.
    """

    def __init__(
        self,
        source: DataSet,
        geometry: Geometry,
        mesh: Mesh,
        batch_size: int = 8,
        buckets: int = 4,
        on_bad_image: str = "stop",
        workers: int = 0,
        ahead: int = 2,
    ):
        if batch_size % mesh.size:
            raise InputError(f"eval.batch_size {batch_size} is not a multiple of the {mesh.size} devices.")
        self.processes = Processes()
        self.source, self.geometry, self.mesh, self.on_bad_image = source, geometry, mesh, on_bad_image
        self._plan = EvaluationPlan(source.examples.sizes, Pipeline.of(geometry), batch_size, buckets, mesh.size)
        share = Share(self.processes.index, self.processes.count)
        self._work = LoadStep(source, self._plan, geometry.patch, geometry.model_max_side, share)
        self._workers, self._ahead = workers, ahead
        self._split, self._same = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())

    def program(self, observe: Observe) -> Program:
        """What `run` takes; it may be run with several parameters."""
        return Program(observe, self._same)

    def run(
        self,
        program: Program,
        params: dict,
        take: Take,
        cancelled: Callable[[], int] = never,
        doing: str = "evaluating",
    ) -> list[str] | None:
        """Hands every image's arrays to `take`, in all processes and in the plan's order.

        Returns:
          A sentence for each unreadable image, of all processes; None if `cancelled` became true on the way, in any of
          the processes. `InputError` if an image cannot be read and must not be left out, or a data worker died.
        """
        processes, params = self.processes, place(params, self._same)
        skipped: list[str] = []
        done: list[int] = []
        total = len(self.source.examples)
        more = self.on_bad_image, cancelled, self._workers, self._ahead, doing
        with contextlib.closing(one_pass(processes, self._work, len(self._plan), total, *more)) as batches:
            for loaded in batches:
                if loaded is None:
                    return None
                for index, found in self._found(program, params, loaded):
                    done.append(index)
                    take(index, found)
                skipped += loaded.skipped
        skipped = list(itertools.chain(*processes.allgather(skipped)))
        if len(done) + len(skipped) != total or len(set(done)) != len(done):
            raise RuntimeError("an image was missed or evaluated twice; this is a bug")
        return skipped

    def _found(self, program: Program, params: dict, loaded: Loaded) -> Generator[tuple[int, tuple[np.ndarray, ...]]]:
        """The images of a batch, of all processes' shares, with what was found in each."""
        there = loaded.indices[:, None] >= 0
        size = np.where(there, self.source.examples.sizes[loaded.indices], 1).astype(np.int32)
        local = np.int32(loaded.indices), loaded.batch.patches, loaded.batch.grid, size
        arrays = [jax.make_array_from_process_local_data(self._split, x) for x in local]
        for index, *found in zip(*jax.device_get(program(self.processes, params, arrays))):
            if index >= 0:
                yield int(index), tuple(found)
