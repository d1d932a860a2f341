"""The training loop: batches, step, metrics, checkpoints, evaluation."""

from collections.abc import Sequence
from pathlib import Path

import jax

from yolos_jax.training.failures import saves_on_failure
from yolos_jax.training.run import Outcome, open_run
from yolos_jax.training.task import MakeTask, Options


def train_task(
    make_task: MakeTask, workdir: str | Path, options: Options, devices: Sequence[jax.Device] | None = None
) -> Outcome:
    """Trains with the given options, and resumes from the newest checkpoint in the workdir if there is one.

    Writes checkpoints (the latest, and the best in `best/`), `metrics.jsonl`, `curves.png` and logs to the workdir.

    Args:
      make_task: creates the task for the devices that batches are split over.
      devices: all by default; a run may resume on different devices.

    Raises:
      InputError: bad input, a full disk, a dead data worker, or values that are no longer finite.
    """
    with open_run(make_task, Path(workdir), options, devices) as run, saves_on_failure(run):
        run.evaluate()  # the run may have been killed between a checkpoint and its evaluation
        for batch in run.batches:  # until the last step or a signal, at the same step in all processes
            if run.is_patience_over():
                break
            run.take_step(batch)
            if run.is_save_due():
                run.save()
                run.evaluate()
        run.save()
        run.compare_average()
    return run.outcome()
