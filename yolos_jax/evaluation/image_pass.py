"""Applies a function of the network to all images of a data set, synchronised across processes."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from yolos_jax.data.loader import Loaded, LoadStep, Share, load_batches
from yolos_jax.distributed.mesh import replicated, split_over
from yolos_jax.distributed.processes import Processes, place, reports_loss
from yolos_jax.errors import InputError

# (index of an image in the data set, outputs of the function for it)
Take = Callable[[int, tuple[np.ndarray, ...]], None]


@dataclasses.dataclass(frozen=True)
class Batching:
    """How an evaluation reads batches, and the devices that it uses.

    Raises `InputError` if the batch size is not a multiple of the number of devices.
    """

    mesh: Mesh  # devices along the axis `data`
    batch_size: int = 8  # images per batch, a multiple of the number of devices
    on_bad_image: str = "stop"  # "stop" raises `InputError` for an unreadable image; "skip" continues
    workers: int = 0  # this and `ahead`: see `data.loader.load_batches`
    ahead: int = 2

    def __post_init__(self) -> None:
        if self.batch_size % self.mesh.size:
            raise InputError(
                f"eval.batch_size {self.batch_size} is not a multiple of the number of devices ({self.mesh.size})."
            )


class ImagePass:
    """Applies a function to every image of a data set once; may be called repeatedly.

    The function is compiled once per batch shape. Every process receives the outputs of all processes, which are a few
    kilobytes per image.

    Args:
      batching: how batches are read.
      function: (parameters, arrays of a batch) -> a tuple of arrays with a leading axis of images.
      inputs: a loaded batch -> the input arrays of `function`.
      work_of: a process's share of every batch -> the work of its data workers.
      images: number of images in the data set.
    """

    def __init__(
        self,
        batching: Batching,
        function: Callable[..., tuple[jax.Array, ...]],
        inputs: Callable[[Loaded], tuple[np.ndarray, ...]],
        work_of: Callable[[Share], LoadStep],
        images: int,
    ):
        self.processes = Processes()
        self._batching = batching
        self._inputs = inputs
        self._images = images
        self._work = work_of(Share(self.processes.index, self.processes.count))

        def indexed(params: dict, indices: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, ...]:
            return indices, *function(params, *arrays)

        self._function = jax.jit(indexed, out_shardings=replicated(batching.mesh))
        self._compiled: dict[Any, Any] = {}

    def __call__(
        self, params: dict, take: Take, cancelled: Callable[[], int] | None = None, doing: str = "evaluating"
    ) -> list[str] | None:
        """Calls `take` with the function's outputs for each image, in every process and in the plan's order.

        Args:
          cancelled: called after every batch; if it is true in any process, the pass ends in all of them.
          doing: the progress bar's title.

        Returns:
          A message for each unreadable image, from all processes; None if the pass was cancelled.

        Raises:
          InputError: an image cannot be read and may not be skipped, or a data worker died.
        """
        processes = self.processes
        batching = self._batching
        cancelled = cancelled or _never
        params = place(params, replicated(batching.mesh))
        steps = len(self._work.plan)
        batches = processes.agree(load_batches, self._work, 0, steps, batching.workers, batching.ahead)
        bar = tqdm(
            None, doing, self._images, unit="image", mininterval=1.0, leave=None, disable=not processes.is_primary
        )
        skipped: list[str] = []
        done: list[int] = []
        with bar, contextlib.closing(batches), reports_loss(processes.count):
            for _ in range(steps):
                following = functools.partial(_next, batches, batching.on_bad_image, cancelled)
                loaded, stop = processes.agree_and_vote(following, cancelled)
                if stop or loaded is None:
                    return None
                for index, *found in zip(*self._computed(params, loaded)):
                    if index >= 0:  # negative for empty slots
                        done.append(int(index))
                        take(int(index), tuple(found))
                skipped += loaded.skipped
                bar.update(min(processes.count * len(loaded.indices), self._images - bar.n))
        everywhere = list(itertools.chain(*processes.allgather(skipped)))
        if len(set(done)) != len(done) or len(done) + len(everywhere) != self._images:
            raise RuntimeError("an image was missed or evaluated twice; this is a bug")
        return everywhere

    def _computed(self, params: dict, loaded: Loaded) -> tuple[np.ndarray, ...]:
        """Runs the function; returns the data set indices of all images in the batch, and the outputs."""
        split = split_over(self._batching.mesh)
        mine = loaded.indices.astype(np.int32), *self._inputs(loaded)
        arrays = [jax.make_array_from_process_local_data(split, x) for x in mine]
        shapes = tuple(x.shape for x in arrays)
        if shapes not in self._compiled:  # all processes wait for the slowest compilation
            self._compiled[shapes] = self.processes.agree(self._function.lower(params, *arrays).compile)
        return jax.device_get(self._compiled[shapes](params, *arrays))


def _next(batches: Generator[Loaded], on_bad_image: str, cancelled: Callable[[], int]) -> Loaded | None:
    """The next batch of this process; None if the run is being stopped."""
    try:
        loaded = next(batches)
    except InputError:
        if cancelled():  # the signal that stops a run may also end its workers
            return None
        raise
    if loaded.skipped and on_bad_image == "stop":
        raise InputError(f"{loaded.skipped[0]} Repair it, or set --config.data.on_bad_image=skip.")
    return loaded


def _never() -> int:
    return 0
