"""What makes a run the run it is: settings that may not change when it goes on."""

import importlib.metadata
import json
from typing import Any

from yolos_jax.data.coco import CocoSource
from yolos_jax.errors import InputError
from yolos_jax.model.config import YolosConfig
from yolos_jax.training.checkpoints import Meta

# Everything else of a recipe decides the mathematics or the order of the data.
FREE = {
    "init", "matcher", "eval", "checkpoint",
    "data.root", "data.train_split", "data.val_split", "data.train_annotations", "data.val_annotations",
    "data.train_pictures", "data.val_pictures", "data.workers", "data.ahead", "data.on_bad_image",
    "data.short_side", "train.max_steps", "train.log_every", "train.accumulate",
    "model.max_side", "model.query_block", "model.remat",
}  # fmt: skip
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")


def facts_of(config: Any, source: CocoSource) -> dict[str, Any]:
    """What a checkpoint of a run says about it, JSON-ready."""
    return {
        "config": json.loads(config.to_json_best_effort()),
        "data": {"fingerprint": source.examples.fingerprint(), "images": len(source.examples)},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


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
    found = config_differences(old["config"], new["config"], old["config"].get("data", {}))
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


def config_differences(old: dict, new: dict, data: dict, path: str = "") -> list[str]:
    """Sentences such as "seed 0 against 1", for keys that are not free."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        name = f"{path}{key}"
        # The short side for evaluation is training's too where nothing is augmented.
        if name in FREE and not (name == "data.short_side" and not data.get("scales")):
            continue
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += config_differences(a, b, data, f"{name}.")
        elif a != b:
            found.append(f"{name} {a} against {b}")
    return found
