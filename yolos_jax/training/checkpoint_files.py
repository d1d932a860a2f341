"""Reads and writes checkpoints with orbax: plain nested dicts of arrays, one folder per step.

A checkpoint has `<step>/params` (arrays) and `<step>/meta` (JSON: the model's config, the label names, the step and
other facts). The checkpoint of a training run also has `<step>/optimizer` and, if enabled, `<step>/ema`. The model is
a detector, or an image classifier that a detector can start from.
"""

import contextlib
import dataclasses
import errno
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import jax
import numpy as np

from yolos_jax.errors import InputError, reason
from yolos_jax.model.classifier_config import ClassifierConfig
from yolos_jax.model.config import Compute, YolosConfig

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

SMALL_FILES = 2**18  # bytes of a checkpoint reserved for files other than arrays
M = TypeVar("M", YolosConfig, ClassifierConfig)
CLASSIFIER = "classifier"  # the kind in a classifier's meta; absent for a detector


@dataclasses.dataclass(frozen=True)
class Meta(Generic[M]):
    """The metadata of a checkpoint."""

    model: M  # the config of the model
    label_names: dict[int, str]  # keyed by label, which is a category id unless `category_ids` is set
    step: int = 0  # training steps done; 0 after a conversion
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)  # JSON-ready facts, such as the training config
    category_ids: tuple[int, ...] | None = None  # the data set's id for each label, unless labels are category ids
    max_side: int = Compute.max_side  # longest image side that the model supports, in patches

    def to_json(self) -> dict[str, Any]:
        names = {str(key): name for key, name in self.label_names.items()}
        values = {"model": self.model.to_dict(), "label_names": names, "step": self.step, "extra": self.extra}
        if isinstance(self.model, ClassifierConfig):
            values["kind"] = CLASSIFIER
        values["category_ids"] = None if self.category_ids is None else list(self.category_ids)
        values["max_side"] = self.max_side
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Meta":
        """The inverse of `to_json`; `ValueError` or `KeyError` for content that it did not write."""
        names = {int(key): str(name) for key, name in values["label_names"].items()}
        extra, step = values["extra"], values["step"]
        if not isinstance(extra, dict) or not isinstance(extra.get("config", {}), dict) or type(step) is not int:
            raise ValueError("its meta file was modified")
        ids = values.get("category_ids")
        ids = None if ids is None else tuple(int(i) for i in ids)
        max_side = Compute(max_side=values["max_side"]).max_side  # validates it
        kind: Any = ClassifierConfig if values.get("kind") == CLASSIFIER else YolosConfig
        return cls(kind.from_dict(values["model"]), names, step, extra, ids, max_side)


def steps(directory: str | Path) -> list[int]:
    """Steps saved in `directory`, ascending; empty if there are none or the folder does not exist."""
    return sorted(int(p.name) for p in Path(directory).glob("[0-9]*") if p.name.isdigit() and (p / "meta").is_dir())


def manager_of(path: Path, keep: int | None = None) -> "ocp.CheckpointManager":
    """Orbax's manager of an existing folder, for this process only; keeps the latest `keep` steps, by default all."""
    ocp, me = _orbax(), jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
    )
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=False, multiprocessing_options=alone)
    return ocp.CheckpointManager(path.absolute(), options=options)


def parts(meta: Meta, **trees: dict) -> "ocp.args.Composite":
    """The arguments for saving with orbax: nested dicts of arrays by name, and the metadata."""
    ocp = _orbax()
    arrays = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
    return ocp.args.Composite(meta=ocp.args.JsonSave(meta.to_json()), **arrays)


def read_meta(path: Path, step: int) -> Meta:
    """The metadata of one step; raises various exceptions if it is damaged."""
    ocp = _orbax()
    with _quiet(), manager_of(path) as manager:
        return Meta.from_json(manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta)


def read_arrays(path: Path, step: int, **shapes: dict) -> dict[str, dict]:
    """Arrays of one step by name, as numpy arrays on the host; `shapes` are nested dicts of the same structure."""
    ocp = _orbax()
    # Restored as numpy arrays, which stay on the host, because the devices may be full.
    targets = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), shapes)
    wanted = {name: ocp.args.StandardRestore(tree) for name, tree in targets.items()}
    with _quiet(), manager_of(path) as manager:
        found = manager.restore(step, args=ocp.args.Composite(**wanted))
    return {name: jax.tree.map(np.asarray, found[name]) for name in shapes}


def check_room(path: Path, trees: dict) -> None:
    """Raises `OSError` if arrays do not fit on the disk; orbax would print a traceback for each array."""
    wanted = sum(x.nbytes for x in jax.tree.leaves(trees))
    if wanted + SMALL_FILES > shutil.disk_usage(path).free:
        raise OSError(errno.ENOSPC, f"No space left on the device for {wanted / 2**20:.1f} MiB")


@contextlib.contextmanager
def unwritable(path: Path, step: int) -> Iterator[None]:
    """Converts errors raised while saving to `InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # orbax wraps file-system errors in various exceptions
        whole = steps(path)
        rest = f"the newest complete checkpoint is step {whole[-1]}" if whole else "there is no complete checkpoint yet"
        raise InputError(
            f"the checkpoint for step {step} could not be written to {path} ({reason(error)}); {rest}. "
            "Free some space and run the same command again."
        ) from error


def _orbax() -> Any:
    """Imports orbax when the first checkpoint is read or written, which saves 0.3 s for weights in other formats."""
    import orbax.checkpoint

    return orbax.checkpoint


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps orbax from printing tracebacks of errors that `unwritable` and `load` report in one sentence."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)
