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
    """Trains, going on from the workdir's newest checkpoint if it has one.

    The workdir gets checkpoints (the latest, the best in `best/`), `metrics.jsonl`, `tensorboard/` and `curves.png`.

    Args:
      make_task, options: what makes the task, for the devices that batches are split over; how the run is done.
      devices: all by default; a run may go on with others than it began with.

    Raises:
      InputError: bad input, a disk that is full, a data worker that died, or numbers that are no longer finite.
    """
    with open_run(make_task, Path(workdir), options, devices) as run, saves_on_failure(run):
        run.evaluate()  # a kill may have come between a checkpoint and its evaluation
        for batch in run.batches:  # until the last step or a signal, which all processes see at the same step
            if run.is_patience_over():
                break
            run.take_step(batch)
            if run.is_save_due():
                run.save()
                run.evaluate()
        run.save()
        run.compare_average()
    return run.outcome()
