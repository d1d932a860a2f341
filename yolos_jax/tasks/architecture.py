"""Reads the architecture from the initial weights or from a checkpoint, for recipes with `model.from_init`."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yolos_jax.config.reader import stated_architecture
from yolos_jax.config.recipes import ARCHITECTURE, OWN, DetectionConfig, Recipe
from yolos_jax.distributed.processes import Processes
from yolos_jax.model.config import YolosConfig
from yolos_jax.model.init import SCHEMES
from yolos_jax.tasks.recipe import model_of, prepare
from yolos_jax.training import checkpoint_files
from yolos_jax.weights.architecture import architecture_of, title_of
from yolos_jax.weights.starting import refuse_nothing_to_start_from


def settle(recipe: Recipe, workdir: str | Path | None = None) -> DetectionConfig:
    """Prepares a detector's recipe; with `model.from_init`, also reads the architecture from the weights.

    The primary process reads the weights, or the checkpoint in `workdir` if the run resumes.
    """
    config, processes = prepare(recipe, DetectionConfig), Processes()
    stated = {name: getattr(config.model, name) for name in stated_architecture(recipe)}
    with processes.only_primary_prints():
        mine = processes.on_primary(_left_to_weights, config, stated, workdir)
    found = processes.allgather(mine)[0] or {}
    return _with_architecture(config, {name: _tupled(value) for name, value in found.items()})


def of_checkpoint(config: DetectionConfig, model: YolosConfig, stated: Sequence[str]) -> DetectionConfig:
    """With `model.from_init`, uses the architecture of the checkpoint, except for the `stated` settings."""
    left = [] if config.model.from_init == OWN else [name for name in ARCHITECTURE if name not in stated]
    return _with_architecture(config, {name: getattr(model, name) for name in left})


def _with_architecture(config: DetectionConfig, values: Mapping[str, Any]) -> DetectionConfig:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **values))


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # JSON has no tuples


def _left_to_weights(config: DetectionConfig, stated: dict[str, Any], workdir: str | Path | None) -> dict[str, Any]:
    """The architecture settings that the weights determine, by name."""
    if config.model.from_init == OWN:
        return {}
    if workdir is not None and checkpoint_files.steps(workdir):  # the initial weights may no longer exist
        before = _architecture_before(Path(workdir))
        return {name: before[name] for name in ARCHITECTURE if name in before and name not in stated}
    refuse_nothing_to_start_from(config.init)
    if config.init in SCHEMES:
        return {}
    found = architecture_of(config.init, stated)
    print(f"model: {title_of(model_of(_with_architecture(config, found), 1))}, from the weights {config.init}")
    return found


def _architecture_before(workdir: Path) -> dict[str, Any]:
    """The architecture in the newest readable checkpoint. If there is none, returns {}; resuming reports the error."""
    for step in reversed(checkpoint_files.steps(workdir)):
        with contextlib.suppress(Exception):  # orbax raises various exceptions for damaged files
            return checkpoint_files.read_meta(workdir, step).model.to_dict()
    return {}
