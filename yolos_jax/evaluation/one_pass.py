"""Passes over the batches of an evaluation, in step with the other processes, through a function of the network."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from yolos_jax.data.loader import Loaded, LoadStep, Share, load
from yolos_jax.distributed.processes import Processes, place, reports_loss
from yolos_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Batching:
    """How an evaluation reads its batches, and which devices compute them.

    `InputError` for a batch that the devices do not divide.
    """

    mesh: Mesh  # devices along the axis `data`
    batch_size: int = 8  # images at a time, a multiple of the devices
    on_bad_image: str = "stop"  # raises `InputError` at an image that cannot be read; "skip" goes on
    workers: int = 0  # this and `ahead`: see `data.loader.load`
    ahead: int = 2

    def __post_init__(self) -> None:
        if self.batch_size % self.mesh.size:
            raise InputError(f"eval.batch_size {self.batch_size} is not a multiple of the {self.mesh.size} devices.")


class Program:
    """A function of (parameters, the arrays of a batch), compiled once for each shape of these.

    Every process gets what all of them found: some kilobytes an image.
    """

    def __init__(self, function: Callable, result: NamedSharding):
        self._function = jax.jit(function, out_shardings=result)
        self._compiled: dict[Any, Any] = {}

    def __call__(self, processes: Processes, params: dict, arrays: list[jax.Array]) -> Any:
        """Runs it; all processes wait for the slowest compilation."""
        shapes = tuple(x.shape for x in arrays)
        if shapes not in self._compiled:
            self._compiled[shapes] = processes.agree(self._function.lower(params, *arrays).compile)
        return self._compiled[shapes](params, *arrays)


class Passes:
    """Takes all batches of a plan through a function, as often as wanted.

    Args:
      work_of: the work of a process's share of every batch.
      steps, images: batches of the plan, and images in them together.
      inputs: arrays of a batch, which the function takes after the parameters.
    """

    def __init__(
        self,
        batching: Batching,
        work_of: Callable[[Share], LoadStep],
        steps: int,
        images: int,
        inputs: Callable[[Loaded], tuple[np.ndarray, ...]],
    ):
        self.processes = Processes()
        self._work = work_of(Share(self.processes.index, self.processes.count))
        self._batching, self._steps, self._images, self._inputs = batching, steps, images, inputs
        mesh = batching.mesh
        self._split, self._same = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())

    def program(self, function: Callable) -> Program:
        """What `run` takes; it may be run with several parameters."""
        return Program(function, self._same)

    def run(
        self,
        program: Program,
        params: dict,
        take: Callable[[Any], None],
        cancelled: Callable[[], int],
        doing: str = "evaluating",
    ) -> list[str] | None:
        """Hands what the program finds in each batch to `take`, numpy arrays of the whole batch in all processes.

        Returns:
          A sentence for each unreadable image, of all processes; None if `cancelled` became true on the way, in any of
          the processes. `InputError` if an image cannot be read and must not be left out, or a data worker died.
        """
        params = place(params, self._same)
        skipped: list[str] = []
        with contextlib.closing(self._batches(cancelled, doing)) as batches:
            for loaded in batches:
                if loaded is None:
                    return None
                arrays = [jax.make_array_from_process_local_data(self._split, x) for x in self._inputs(loaded)]
                take(jax.device_get(program(self.processes, params, arrays)))
                skipped += loaded.skipped
        return list(itertools.chain(*self.processes.allgather(skipped)))

    def _batches(self, cancelled: Callable[[], int], doing: str) -> Generator[Loaded | None]:
        """This process's share of every batch; None, once and last, if `cancelled` became true in any of them.

        Close it (`contextlib.closing`) to end the workers.
        """
        how, processes, images = self._batching, self.processes, self._images
        batches = processes.agree(load, self._work, 0, self._steps, how.workers, how.ahead)
        with (
            tqdm(None, doing, images, unit="image", mininterval=1.0, disable=not processes.is_primary) as bar,
            contextlib.closing(batches),
            reports_loss(processes.count),
        ):
            for _ in range(self._steps):
                following = functools.partial(_next, batches, how.on_bad_image, cancelled)
                loaded, stop = processes.agree_and_vote(following, cancelled)
                if stop or loaded is None:
                    yield None
                    return
                yield loaded
                bar.update(min(processes.count * len(loaded.indices), images - bar.n))


def _next(batches: Generator[Loaded], on_bad_image: str, cancelled: Callable[[], int]) -> Loaded | None:
    """The next batch of this process's share; None if it does not come because all is being stopped."""
    try:
        loaded = next(batches)
    except InputError:
        if cancelled():  # what stops a run may end its workers
            return None
        raise
    if loaded.skipped and on_bad_image == "stop":
        raise InputError(f"{loaded.skipped[0]} Repair it, or set --config.data.on_bad_image=skip.")
    return loaded


def never() -> int:
    """For evaluations that nothing cancels."""
    return 0
