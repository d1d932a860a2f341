"""Writes a run's checkpoints: the latest few, and the best one separately."""

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from flax import serialization

from yolos_jax.address import check_alone
from yolos_jax.training import checkpoint_files
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.training.step import TrainState

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

BEST = "best"  # folder of the best checkpoint, inside the workdir


class Checkpoints:
    """Writes checkpoints in the background and keeps the latest `keep`; a context manager.

    If `writes` is False, it does nothing, because another process writes the checkpoints.
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
            for half in folder.glob("*.orbax-checkpoint-tmp*"):  # left by a killed run; orbax would remove it later
                shutil.rmtree(half, ignore_errors=True)
        self._latest = checkpoint_files.manager_of(self.path, keep)
        self.last = max(checkpoint_files.steps(self.path), default=None)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Do not hide an earlier error.
        with contextlib.suppress(Exception) if kind else contextlib.nullcontext():
            self.wait()
        for manager in (self._latest, self._best):
            with contextlib.suppress(Exception):
                if manager is not None:
                    manager.close()

    def save(self, step: int, state: TrainState, meta: Meta) -> None:
        """Starts writing a step unless it exists; raises an error if an earlier write has failed."""
        if self._latest is None or step == self.last:
            return
        trees = {"params": state.params, "optimizer": serialization.to_state_dict(state.opt_state)}
        if state.ema is not None:
            trees["ema"] = state.ema
        with checkpoint_files.unwritable(self.path, step):
            self.wait()
            check_alone(self.path)
            checkpoint_files.check_room(self.path, trees)
            # Copied to the host, because the next step may reuse the memory of these arrays.
            self._latest.save(step, args=checkpoint_files.parts(meta, **jax.tree.map(_copy, trees)))
        self.last = step

    def save_best(self, step: int, params: dict, meta: Meta) -> None:
        """Writes the parameters of the best step separately, replacing the previous one; waits until it is complete."""
        if self._latest is None or step in checkpoint_files.steps(self.path / BEST):
            return
        with checkpoint_files.unwritable(self.path / BEST, step):
            check_alone(self.path)
            checkpoint_files.check_room(self.path, params)
            if self._best is None:
                (self.path / BEST).mkdir(exist_ok=True)
                self._best = checkpoint_files.manager_of(self.path / BEST, 1)
            self._best.save(step, args=checkpoint_files.parts(meta, params=jax.tree.map(_copy, params)))
        self.wait()

    def save_if_best(self, step: int, params: dict, meta: Meta, name: str) -> str:
        """Calls `save_best` if the metric `name` in `meta.extra` is the largest so far; returns a clause for the log.

        A negative value is undefined: COCO reports -1 without ground truth.
        """
        if meta.extra[name] < 0:
            return "so there is no best checkpoint"
        best = best_so_far(self.path, name)
        if best is not None and meta.extra[name] <= best[1]:
            return f"best {best[1]:.4f} at step {best[0]}"
        self.save_best(step, params, meta)
        return "the best so far"

    def wait(self) -> None:
        """Waits until everything is written."""
        for manager, path in ((self._latest, self.path), (self._best, self.path / BEST)):
            if manager is not None:
                with checkpoint_files.unwritable(path, self.last or 0):
                    manager.wait_until_finished()


def _copy(x: jax.Array | np.ndarray) -> np.ndarray:
    return np.array(x, copy=True)


def best_so_far(workdir: Path, name: str) -> tuple[int, float] | None:
    """(step, metric `name`) of the best checkpoint, if there is a readable one."""
    meta = best_meta(workdir)
    with contextlib.suppress(Exception):
        if meta is not None:
            value = float(meta.extra[name])
            return (meta.step, value) if value >= 0 else None
    return None


def best_meta(workdir: Path) -> Meta | None:
    """The metadata of the best checkpoint, if there is a readable one."""
    found = checkpoint_files.steps(workdir / BEST)
    with contextlib.suppress(Exception):
        if found:
            return checkpoint_files.read_meta(workdir / BEST, found[-1])
    return None
