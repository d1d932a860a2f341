"""What makes a run the run it is: settings that may not change when it goes on."""

import importlib.metadata
import json
from collections.abc import Sequence
from typing import Any

from yolos_jax import settings
from yolos_jax.checkpoints import Meta
from yolos_jax.data.examples import DataSet
from yolos_jax.errors import InputError
from yolos_jax.model.config import YolosConfig

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")


def facts_of(config: Any, source: DataSet) -> dict[str, Any]:
    """What a checkpoint of a run says about it, JSON-ready."""
    return {
        "config": json.loads(config.to_json_best_effort()),
        "data": data_facts(source),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def data_facts(source: DataSet) -> dict[str, Any]:
    """What tells one data set from another, wherever it lies."""
    return {"fingerprint": source.examples.fingerprint(), "images": len(source.examples)}


def refuse_differences(meta: Meta, model: YolosConfig, facts: dict[str, Any], accept: bool) -> list[str]:
    """Compares a checkpoint with the run that wants to go on from it.

    Returns:
      Sentences worth telling: accepted differences and other package versions.

    Raises:
      InputError: another model, or differences that are not accepted.
    """
    different = meta.model.differences(model)
    if different:
        raise InputError(f"the checkpoint of step {meta.step} is of another model: {'; '.join(different)}.")
    old, new = meta.extra, facts
    found = settings.differences(old["config"], new["config"])
    if old["data"] != new["data"]:
        found.append(
            f"the training annotations ({old['data']['images']} images, fingerprint {old['data']['fingerprint']}, "
            f"against {new['data']['images']} images, fingerprint {new['data']['fingerprint']})"
        )
    if found and not accept:
        raise InputError(
            f"the run that wrote step {meta.step} was another: {'; '.join(found)}. Set them as they were, choose "
            "another --workdir, or go on all the same with --accept_differences."
        )
    told = [f"accepted difference: {sentence}." for sentence in found]
    for name, version in old["versions"].items():
        if new["versions"].get(name) != version:
            told.append(
                f"{name} {version} wrote the checkpoint, {new['versions'].get(name)} goes on: the last bits may differ."
            )
    return told


def refuse_strangers(facts: Sequence[dict[str, Any]]) -> None:
    """`InputError` if the processes of a run were not started alike.

    Args:
      facts: of each process; all the same, but for what of "config" may be different on a host.
    """
    first = facts[0]
    for i, other in enumerate(facts[1:], 1):
        found = settings.differences(other["config"], first["config"], hosts=True)
        found += [f"{k} {other[k]} against {first[k]}" for k in first if k != "config" and other[k] != first[k]]
        if found:
            raise InputError(
                f"process {i} was started with something else than process 0: {'; '.join(found)}. Give all processes "
                "of a run the same recipe, data and packages."
            )
