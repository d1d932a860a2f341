"""Handles failures during a run."""

import contextlib
from collections.abc import Iterator

import jax

from yolos_jax.distributed.processes import LostProcess, reports_loss
from yolos_jax.errors import InputError, reason
from yolos_jax.training.compiled_step import NotFinite
from yolos_jax.training.run import Run


@contextlib.contextmanager
def saves_on_failure(run: Run) -> Iterator[None]:
    """Saves the last valid step if an `InputError` ends a run, and adds this to its message; explains memory errors.

    `NotFinite` and `LostProcess` propagate unchanged: the state may be invalid, or can no longer be saved.
    """
    try:
        with reports_loss(run.processes.count):
            yield
    except (NotFinite, LostProcess):
        raise
    except InputError as error:  # the state is valid, so the user can resume from it after fixing the problem
        run.save()
        run.processes.agree(run.store.wait)
        raise InputError(f"{error} {run.saved()}.") from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(
            f"the devices do not have enough memory for step {run.progress.done + 1} ({reason(error)}); "
            "increase train.accumulate, set model.remat=True, or reduce train.batch_size or the image sizes. Run the "
            "same command to resume from the newest checkpoint."
        ) from error
