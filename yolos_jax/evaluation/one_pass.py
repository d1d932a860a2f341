"""One pass over the batches of an evaluation, in step with the other processes."""

import contextlib
import functools
from collections.abc import Callable, Generator

from tqdm import tqdm

from yolos_jax.data.loader import Loaded, Work, load
from yolos_jax.distributed.processes import Processes, reports_loss
from yolos_jax.errors import InputError


def one_pass(
    processes: Processes,
    work: Work,
    steps: int,
    images: int,
    on_bad_image: str,
    cancelled: Callable[[], int],
    workers: int = 0,
    ahead: int = 2,
    doing: str = "evaluating",
) -> Generator[Loaded | None]:
    """This process's share of every batch; None, once and last, if `cancelled` became true in any of the processes.

    Close it (`contextlib.closing`) to end the workers.

    Args:
      images: of all batches together, for the progress bar.
      on_bad_image: "stop" raises `InputError` at an image that cannot be read.
      workers, ahead: see `data.loader.load`.
    """
    batches = processes.agree(load, work, 0, steps, workers, ahead)
    with (
        tqdm(None, doing, images, unit="image", mininterval=1.0, disable=not processes.is_primary) as bar,
        contextlib.closing(batches),
        reports_loss(processes.count),
    ):
        for _ in range(steps):
            following = functools.partial(_next, batches, on_bad_image, cancelled)
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
