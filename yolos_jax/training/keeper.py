"""The checkpoints of a run: the latest few, the best one apart, and going on from them."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import serialization

from yolos_jax import checkpoints
from yolos_jax.checkpoints import Meta
from yolos_jax.errors import InputError
from yolos_jax.model.yolos import abstract
from yolos_jax.training.step import TrainState

BEST = "best"  # folder of the best checkpoint, inside the workdir


class Keeper:
    """Writes checkpoints in the background; a context manager.

    Args:
      workdir: where to.
      keep: how many of the latest steps stay.
      writes: False for a process that leaves all this to another one.
    """

    def __init__(self, workdir: Path, keep: int, writes: bool = True):
        self.path = workdir.absolute()
        self._latest: ocp.CheckpointManager | None = None
        self._best: ocp.CheckpointManager | None = None
        self.last: int | None = None
        if writes:
            self._open(keep)

    def _open(self, keep: int) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        for folder in (self.path, self.path / BEST):
            for half in folder.glob("*.orbax-checkpoint-tmp*"):  # what a kill left; orbax would do it later
                shutil.rmtree(half, ignore_errors=True)
        self._latest = checkpoints.manager_of(self.path, keep)
        self.last = max(checkpoints.steps(self.path), default=None)

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # If something else went wrong already, that is what should be told.
        with contextlib.suppress(Exception) if kind else contextlib.nullcontext():
            self.wait()
        for manager in (self._latest, self._best):
            with contextlib.suppress(Exception):
                if manager is not None:
                    manager.close()

    def save(self, step: int, state: TrainState, meta: Meta) -> None:
        """Starts to write a step; does nothing if it is there. An earlier one that failed is told now."""
        if self._latest is None or step == self.last:
            return
        trees = {"params": state.params, "optimizer": serialization.to_state_dict(state.opt_state)}
        if state.ema is not None:
            trees["ema"] = state.ema
        with checkpoints.unwritable(self.path, step):
            self.wait()
            checkpoints.check_room(self.path, trees)
            # Copies on the host: the next step may reuse the memory of these arrays.
            self._latest.save(step, args=checkpoints.parts(meta, **jax.tree.map(_copy, trees)))
        self.last = step

    def save_best(self, step: int, params: dict, meta: Meta) -> None:
        """Writes the parameters of the best step so far apart, in place of the one before; waits until it is there."""
        if self._latest is None or step in checkpoints.steps(self.path / BEST):
            return
        with checkpoints.unwritable(self.path / BEST, step):
            checkpoints.check_room(self.path, params)
            if self._best is None:
                (self.path / BEST).mkdir(exist_ok=True)
                self._best = checkpoints.manager_of(self.path / BEST, 1)
            self._best.save(step, args=checkpoints.parts(meta, params=jax.tree.map(_copy, params)))
        self.wait()

    def wait(self) -> None:
        """Until everything is written."""
        for manager, path in ((self._latest, self.path), (self._best, self.path / BEST)):
            if manager is not None:
                with checkpoints.unwritable(path, self.last or 0):
                    manager.wait_until_finished()


def _copy(x: jax.Array | np.ndarray) -> np.ndarray:
    return np.array(x, copy=True)


def best_so_far(workdir: Path) -> tuple[int, float] | None:
    """(step, AP) of the best checkpoint, if there is one that can be read."""
    found = checkpoints.steps(workdir / BEST)
    with contextlib.suppress(Exception):
        if found:
            return found[-1], float(checkpoints.read_meta(workdir / BEST, found[-1]).extra["AP"])
    return None


def newest(
    workdir: Path, optimizer: optax.GradientTransformation, ema: bool, refuse: Callable[[Meta], None]
) -> tuple[TrainState | None, Meta | None, list[str]]:
    """The newest step of a run that is whole: (state of numpy arrays, its meta, sentences about those that are not).

    Damaged steps are moved to `damaged-STEP`, so that the run can write them
    again and nothing is lost; but only when an older one could be read: if
    none can, the trouble may not be the files'.

    Args:
      ema: whether the run keeps a moving average; if the step has none, it starts at the parameters.
      refuse: raises `InputError` if a run must not go on from a meta.

    Raises:
      InputError: refused, or there are steps and none can be read.
    """
    found, damaged = checkpoints.steps(workdir), _half_written(workdir)
    for step in reversed(found):
        path = workdir / str(step)
        try:
            meta = checkpoints.read_meta(workdir, step)
            if not (path / "optimizer").is_dir() and ("config" not in meta.extra or "AP" in meta.extra):
                raise InputError(
                    f"{workdir} holds weights (converted ones, or the best of a run), not a run; give "
                    f"--config.init={workdir} and another --workdir."
                )
            refuse(meta)
            state = _read_state(workdir, step, meta, optimizer, ema)
        except InputError:
            raise
        except Exception as error:  # whatever orbax and tensorstore raise for damaged files
            damaged[path] = f"cannot be read ({checkpoints.reason(error)})"
            continue
        return state, meta, [f"the checkpoint {path} {why}; {_put_aside(path)}." for path, why in damaged.items()]
    if damaged:
        raise InputError(
            f"no checkpoint of {workdir} can be read: "
            + "; ".join(f"{path.name} {why}" for path, why in damaged.items())
            + ". All are left as they are: repair them, or start anew in another --workdir."
        )
    return None, None, []


def _half_written(workdir: Path) -> dict[Path, str]:
    """Steps without a meta; `InputError` for folders that are named like a step and are none."""
    found, half = checkpoints.steps(workdir), {}
    for path in sorted(workdir.glob("[0-9]*")):
        if path.is_dir() and path.name.isdigit() and int(path.name) not in found:
            if not any((path / name).exists() for name in ("_CHECKPOINT_METADATA", "params", "optimizer")):
                raise InputError(f"{path} is named like a checkpoint and is none; choose another --workdir.")
            half[path] = "is only half written"
    return half


def put_aside_best(workdir: Path, step: int) -> list[str]:
    """Moves a best checkpoint of a later step away: a run that goes on from `step` will find its own."""
    later = [s for s in checkpoints.steps(workdir / BEST) if s > step]
    return [f"the best checkpoint {s} is of a later step; {_put_aside(workdir / BEST / str(s))}." for s in later]


def _read_state(workdir: Path, step: int, meta: Meta, optimizer: optax.GradientTransformation, ema: bool) -> TrainState:
    params = abstract(meta.model)[1]
    empty = jax.eval_shape(optimizer.init, params)
    wanted = {"params": params, "optimizer": serialization.to_state_dict(empty)}
    if ema and (workdir / str(step) / "ema").is_dir():
        wanted["ema"] = params
    found = checkpoints.read(workdir, step, **wanted)
    average = found.get("ema", found["params"]) if ema else None
    opt_state = serialization.from_state_dict(empty, found["optimizer"])
    return TrainState(np.array(step, np.int32), found["params"], opt_state, average)


def _put_aside(path: Path) -> str:
    number = 0
    while (aside := path.with_name(f"damaged-{path.name}" + (f"-{number}" if number else ""))).exists():
        number += 1
    path.rename(aside)
    return f"moved to {aside.name}"
