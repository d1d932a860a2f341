"""Resumes from a checkpoint: finds the newest complete step, and compares its run with the current one."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization

from yolos_jax.distributed.processes import Processes
from yolos_jax.errors import InputError, reason
from yolos_jax.training import checkpoint_files
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.training.saving import BEST
from yolos_jax.training.step import TrainState, fresh_state
from yolos_jax.training.task import Identity, Options, Task


def begin(workdir: Path, task: Task, options: Options, processes: Processes) -> tuple[Any, int]:
    """Returns the state to start from (as numpy, in every process) and its step: the newest checkpoint's, or a new one.

    The primary process reads or creates it, so other processes need neither checkpoints nor initial weights.
    """
    like = jax.eval_shape(lambda params: fresh_state(params, task.optimizer, bool(options.train.ema)), task.shapes)
    state, done = processes.on_primary(_begin, workdir, task, options) or (like, 0)
    return processes.broadcast(state, like), processes.allgather(done)[0]


def _begin(workdir: Path, task: Task, options: Options) -> tuple[TrainState, int]:
    state, notes = newest(workdir, task, options)
    done = 0 if state is None else int(state.step)
    for sentence in notes + put_aside_best(workdir, done):
        print(sentence)
    if state is None:
        return fresh_state(task.starting_params(), task.optimizer, bool(options.train.ema)), done
    print(f"resuming from the checkpoint for step {done} in {workdir}")
    return state, done


def refuse_differences(meta: Meta, task: Task, accept: bool) -> list[str]:
    """Compares a checkpoint with the resuming run; returns notes on accepted differences and package versions.

    Raises:
      InputError: the model differs, or other differences are not accepted.
    """
    before, now = Identity.of(meta), task.identity()
    model, fixed, others = task.differences(before)
    if model:
        raise InputError(f"the checkpoint for step {meta.step} has a different model: {'; '.join(model)}.")
    if fixed:
        raise InputError(
            f"the run that wrote step {meta.step} differs, and its optimizer state cannot be used in this run: "
            f"{'; '.join(fixed)}. Undo these changes, or use another --workdir to start a new run from these weights "
            "with --config.init."
        )
    found = list(others)
    if before.order != now.order:
        found.append("the order and augmentation of images, which differ between versions of this package")
    if any(sentence.startswith(("train.batch_size ", "train.epochs ")) for sentence in found):
        found[-1] += _progress(meta.step, task)
    if found and not accept:
        raise InputError(
            f"the run that wrote step {meta.step} differs: {'; '.join(found)}. Undo these changes, choose "
            "another --workdir, or resume anyway with --accept_differences."
        )
    notes = [f"accepted difference: {sentence}." for sentence in found]
    if _average_had_no_warmup(before):
        notes.append(
            f"the decay of the moving average had no warm-up until step {meta.step}; from now on it is "
            "min(train.ema, (1 + t) / (10 + t)) after t updates."
        )
    for name, version in before.versions.items():
        goes_on = now.versions.get(name)
        if goes_on != version:
            notes.append(f"{name} has changed from {version} to {goes_on}; results may differ in the last bits.")
    return notes


def _average_had_no_warmup(before: Identity) -> bool:
    """Whether a run predates the warm-up of averages; recipes had no `train.patience` then."""
    train = before.config.get("train", {})
    return bool(train.get("ema")) and "patience" not in train


def _progress(step: int, task: Task) -> str:
    """A clause that describes where a run resumes if the length of its epochs has changed."""
    epoch = step // max(1, task.steps_per_epoch)
    return (
        f"; progress is counted in steps: the new recipe has {task.steps_per_epoch} steps per epoch and {task.steps} "
        f"in total, and would resume at step {step} in epoch {epoch}, with the learning rate scheduled for that step"
    )


def newest(workdir: Path, task: Task, options: Options) -> tuple[TrainState | None, list[str]]:
    """The newest complete step of a run, or None if there is none, and notes for the user.

    Damaged steps are moved to `damaged-STEP`, so that the run can write these steps again and no file is lost. They are
    moved only if an older step is readable; otherwise, the files may not be the cause.

    If the run keeps a moving average but the step has none, the average starts at the parameters.

    Raises:
      InputError: the run may not resume from this step, or no step is readable.
    """
    found, damaged = checkpoint_files.steps(workdir), _half_written(workdir)
    for step in reversed(found):
        path = workdir / str(step)
        try:
            meta = checkpoint_files.read_meta(workdir, step)
            if not (path / "optimizer").is_dir() and ("config" not in meta.extra or task.headline[0] in meta.extra):
                raise InputError(
                    f"{workdir} contains only weights (converted ones, or the best of a run), not a run; set "
                    f"--config.init={workdir} and choose another --workdir."
                )
            notes = refuse_differences(meta, task, options.accept_differences)
            state = _read_state(workdir, step, task, bool(options.train.ema))
        except InputError:
            raise
        except Exception as error:  # orbax and tensorstore raise various exceptions for damaged files
            damaged[path] = f"cannot be read ({reason(error)})"
            continue
        return state, [f"the checkpoint {p} {why}; {_put_aside(p)}." for p, why in damaged.items()] + notes
    if damaged:
        raise InputError(
            f"no checkpoint in {workdir} can be read: "
            + "; ".join(f"{path.name} {why}" for path, why in damaged.items())
            + ". All are unchanged; repair them, or start a new run in another --workdir."
        )
    return None, []


def _half_written(workdir: Path) -> dict[Path, str]:
    """Steps without metadata; `InputError` for a folder that looks like a checkpoint but is not one."""
    found, half = checkpoint_files.steps(workdir), {}
    for path in sorted(workdir.glob("[0-9]*")):
        if path.is_dir() and path.name.isdigit() and int(path.name) not in found:
            if not any((path / name).exists() for name in ("_CHECKPOINT_METADATA", "params", "optimizer")):
                raise InputError(f"{path} looks like a checkpoint but is not one; choose another --workdir.")
            half[path] = "is incomplete"
    return half


def put_aside_best(workdir: Path, step: int) -> list[str]:
    """Moves the best checkpoints of later steps aside, because a run that resumes from `step` will write its own."""
    later = [s for s in checkpoint_files.steps(workdir / BEST) if s > step]
    return [f"the best checkpoint is from a later step, {s}; {_put_aside(workdir / BEST / str(s))}." for s in later]


def _read_state(workdir: Path, step: int, task: Task, ema: bool) -> TrainState:
    empty = jax.eval_shape(task.optimizer.init, task.shapes)
    wanted = {"params": task.shapes, "optimizer": serialization.to_state_dict(empty)}
    if ema and (workdir / str(step) / "ema").is_dir():
        wanted["ema"] = task.shapes
    found = checkpoint_files.read_arrays(workdir, step, **wanted)
    average = found.get("ema", found["params"]) if ema else None
    opt_state = serialization.from_state_dict(empty, found["optimizer"])
    return TrainState(np.array(step, np.int32), found["params"], opt_state, average)


def _put_aside(path: Path) -> str:
    number = 0
    while (aside := path.with_name(f"damaged-{path.name}" + (f"-{number}" if number else ""))).exists():
        number += 1
    path.rename(aside)
    return f"moved to {aside.name}"
