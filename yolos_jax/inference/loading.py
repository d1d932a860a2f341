"""Loads a trained network from a checkpoint, a Hugging Face folder or the hub."""

import numbers
import os
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from yolos_jax import weights
from yolos_jax.address import copied
from yolos_jax.errors import InputError, check_path
from yolos_jax.images.sequence import Geometry
from yolos_jax.model.config import Compute
from yolos_jax.model.yolos import Yolos, abstract
from yolos_jax.training import checkpoint_files
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.weights import checkpoints

_process: int | None = None  # id of the process that loaded networks


def refuse_forked() -> None:
    """Raises `InputError` in a process that was forked after a network was loaded.

    A forked process does not inherit jax's threads, so any computation would wait for them forever.
    """
    global _process
    _process = _process or os.getpid()
    if _process != os.getpid():
        raise InputError(
            f"this process was forked from process {_process}, which has used jax, and jax does not work after a fork; "
            "start processes with multiprocessing.get_context('spawn') and pass them the detector, or load it there."
        )


def load_model(path: str | Path) -> tuple[dict, Meta]:
    """Loads parameters and `Meta` from a checkpoint folder of yolos-jax, a Hugging Face folder, or a model on the hub.

    Args:
      path: the folder, a weights file of a published model, or `org/name` or `org/name@revision` on the hub.

    Returns:
      Nested dicts of float32 NumPy arrays, and their metadata.

    Raises:
      InputError: there are no usable weights, or they belong to a ViT instead of a detector.
    """
    refuse_forked()
    path = copied(path)
    check_path(path)
    local = Path(path).is_file() or (Path(path) / "config.json").is_file()
    if checkpoint_files.steps(path) or not (local or weights.hub_model(path)):
        return checkpoints.load_detector(path)
    found = weights.load_weights(path, detector=True)
    return found.params, found.meta(default_names={})


def check_there(path: str | Path) -> None:
    """Raises `InputError` if `load_model` would find nothing at a path; loads nothing and does not use the network."""
    check_path(path)
    place = Path(path)
    away = "://" in str(path) or weights.hub_model(path) is not None
    if not away and not place.is_file() and not (place / "config.json").is_file():
        checkpoints.newest_step(path)


def load(path: str | Path) -> Yolos:
    """Loads the network with its weights, as a Flax NNX module on jax's default device.

    The module's inputs are patches and grids, which `yolos_jax.images.sequence` computes from images; `Detector`
    accepts images directly.

    Args:
      path: a checkpoint folder, a Hugging Face folder, or `org/name` or `org/name@revision` on the hub.

    Raises:
      InputError: there are no usable weights, or they belong to a ViT instead of a detector.
    """
    params, meta = load_model(path)
    return nnx.merge(abstract(meta.model, Compute(max_side=meta.max_side))[0], nnx.State(jax.device_put(params)))


def geometry_for(meta: Meta, short_side: int | None, max_side: int | None) -> Geometry:
    """How to resize images: as given by the arguments, else as in the checkpoint's training or image processor."""
    check_whole("short_side", short_side)
    check_whole("max_side", max_side)
    if short_side is None:
        sizes = weights.sizes_of(meta.extra)
        short_side = sizes.short_side if sizes else weights.SHORT_SIDE
        max_side = sizes.max_side if sizes and max_side is None else max_side
    return Geometry.of(short_side, max_side or 0, meta.model.patch_size, meta.max_side)


def check_whole(name: str, value: Any) -> None:
    """Raises `InputError` for an argument that is neither an int nor None."""
    if value is not None and not isinstance(value, numbers.Integral):
        raise InputError(f"{name} is {value!r:.80}; it must be a whole number.")
