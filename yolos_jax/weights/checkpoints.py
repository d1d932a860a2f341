"""Reads yolos-jax checkpoints, and writes individual ones. Training runs write theirs with `training.saving`."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from yolos_jax.address import copied
from yolos_jax.errors import InputError, check_spelling, make_folder, reason
from yolos_jax.model.classifier import abstract_classifier
from yolos_jax.model.classifier_config import ClassifierConfig
from yolos_jax.model.config import YolosConfig
from yolos_jax.model.yolos import abstract
from yolos_jax.training import checkpoint_files
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.user_files import check_file, read_text

MOST_BYTES = 2**40  # maximum size of a file in a checkpoint


def check_no_weights(directory: str | Path) -> None:
    """Raises `InputError` if a folder already contains weights or is unusable; call this before any work starts."""
    check_spelling(directory)
    path = Path(directory)
    steps = checkpoint_files.steps(path)
    if steps:
        raise InputError(f"{path} already contains a checkpoint (step {steps[-1]}); choose another folder.")
    if (path / "config.json").exists():
        raise InputError(f"{path} already contains other weights (config.json); choose another folder.")


def save(directory: str | Path, step: int, params: dict, meta: Meta) -> None:
    """Writes one checkpoint for the training step `step`, and waits until it is complete.

    Raises `InputError` if the folder already contains weights or cannot be written to.
    """
    check_no_weights(directory)
    path = make_folder(directory).absolute()
    with checkpoint_files.unwritable(path, step), checkpoint_files.manager_of(path) as manager:
        checkpoint_files.check_room(path, params)
        manager.save(step, args=checkpoint_files.parts(meta, params=params))
        manager.wait_until_finished()


def check_model(checkpoint: str | Path, different: Sequence[str]) -> None:
    """Raises `InputError` if `different` lists any settings in which a checkpoint's model differs from the config."""
    if different:
        raise InputError(f"the model of the checkpoint {checkpoint} differs from the config: {'; '.join(different)}.")


def load_detector(directory: str | Path) -> tuple[dict, Meta[YolosConfig]]:
    """Loads the newest checkpoint in a detector's folder; returns the parameters as numpy arrays, and its `Meta`.

    If the run kept a moving average of the parameters, the average is loaded, because it is what the run evaluated.
    Raises `InputError` if there is no checkpoint, or if it is damaged or contains a classifier.
    """
    params, meta = load_any(directory)
    if isinstance(meta.model, ClassifierConfig):
        start = f"to train a detector from it, run yolos-train with --config.init={directory}"
        raise InputError(f"{directory} contains an image classifier, not a detector; {start}.")
    return params, meta


def load_any(directory: str | Path) -> tuple[dict, Meta]:
    """Like `load_detector`, but also loads image classifiers; the type of `Meta.model` distinguishes them."""
    path = Path(copied(directory)).absolute()
    meta = newest_meta(path)
    step = newest_step(path)
    with _readable(path / str(step)):
        name = "ema" if (path / str(step) / "ema").is_dir() else "params"
        network = abstract_classifier if isinstance(meta.model, ClassifierConfig) else abstract
        shapes = network(meta.model)[1]
        return checkpoint_files.read_arrays(path, step, **{name: shapes})[name], meta


def newest_step(directory: str | Path) -> int:
    """Returns the step of the newest checkpoint in a folder; raises `InputError` if there is none."""
    check_spelling(directory)
    path = Path(copied(directory)).absolute()
    found = checkpoint_files.steps(path)
    if not found:
        what = "contains no checkpoint" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {what}; use the --workdir of a training run or the --out of yolos-convert.")
    return found[-1]


def newest_meta(directory: str | Path) -> Meta:
    """Returns the metadata of the newest checkpoint in a folder."""
    path = Path(copied(directory)).absolute()
    step = newest_step(path)
    with _readable(path / str(step)):
        return checkpoint_files.read_meta(path, step)


def recorded_recipe(directory: str | Path) -> dict[str, Any] | None:
    """Returns the recipe recorded in a folder's newest checkpoint, as nested dicts; None if there is no recipe.

    Unlike reading with orbax, this initialises no JAX backend, so `jax.distributed` can still be initialised.
    """
    path = Path(copied(directory)).absolute()
    path /= str(newest_step(path))
    with _readable(path):
        return json.loads(read_text(path / "meta" / "metadata"))["extra"].get("config")


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Converts errors while reading a checkpoint to `InputError`; rejects checkpoints that contain named pipes."""
    try:
        for at, _, names in os.walk(path):
            for name in names:
                check_file(os.path.join(at, name), most=MOST_BYTES)
        yield
    except InputError:
        raise
    except Exception as error:  # orbax and tensorstore raise various exceptions for a damaged folder
        raise InputError(f"the checkpoint {path} cannot be read ({reason(error)}).") from error
