"""What happens to a run when something goes wrong, and what it says at its end."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax

from yolos_jax.distributed.processes import LostProcess, reports_loss
from yolos_jax.errors import InputError
from yolos_jax.training import checkpoint_files
from yolos_jax.training.saving import BEST, best_so_far
from yolos_jax.training.step import NotFinite

if TYPE_CHECKING:
    from yolos_jax.training.loop import Run


@contextlib.contextmanager
def saves_on_failure(run: "Run") -> Iterator[None]:
    """Saves the last sound step when bad input ends a run, and says so; or that the devices have too little memory.

    `NotFinite` and `LostProcess` pass unchanged, since nothing may or can be saved after them.
    """
    try:
        with reports_loss(run.processes.count):
            yield
    except (NotFinite, LostProcess):
        raise
    except InputError as error:  # the state is good: whoever repairs the trouble goes on from here
        run.save()
        run.processes.agree(run.checkpoints.wait)
        raise InputError(f"{error} {saved(run)}.") from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(
            f"the devices have not enough memory for step {run.done + 1} ({checkpoint_files.reason(error)}); raise "
            "train.accumulate, set model.remat=True, or lower train.batch_size or the sizes of images. Run the "
            "same command to go on from the newest checkpoint."
        ) from error


def saved(run: "Run") -> str:
    """Where what has been done is."""
    return f"step {run.done} is saved in {run.checkpoints.path}" if run.done else "nothing was to be saved yet"


def print_summary(run: "Run") -> None:
    """The last lines of a run that was not ended by an error."""
    run.curves.draw()
    workdir, total = run.checkpoints.path, run.task.total
    skipped = list(itertools.chain(*run.processes.allgather(run.batches.skipped)))
    for sentence in dict.fromkeys(skipped):
        print(f"skipped, another image took its place: {sentence}")
    print(run.metrics.summary())
    print(f"the step was compiled {len(run.step.programs)} time(s); {len(skipped)} images were skipped")
    name = run.task.headline[0]
    best = best_so_far(workdir, name)
    if best is not None:
        print(f"best {name} {best[1]:.4f} at step {best[0]}, in {workdir / BEST}")
    if run.signals and (run.done < total or run.is_evaluation_due()):
        print(f"stopped by {run.signals.name} after step {run.done} of {total}; {saved(run)}")
        print("the same command goes on from there")
    else:
        print(f"saved the checkpoint of step {run.done} to {workdir}; the run is complete")
