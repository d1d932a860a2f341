"""Checkpoints: orbax, plain nested dicts of arrays, one folder per step.

A folder holds `<step>/params` (arrays) and `<step>/meta` (JSON: the model's
config, the label names, the step and whatever the writer adds).
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from yolos_jax.errors import InputError, make_folder
from yolos_jax.model.config import YolosConfig
from yolos_jax.model.yolos import abstract


@dataclasses.dataclass(frozen=True)
class Meta:
    """What a checkpoint says about itself.

    Attributes:
      model: the config its parameters belong to.
      label_names: name of each category id.
      step: training steps done (0 after a conversion).
      extra: JSON-ready facts, such as the training config.
    """

    model: YolosConfig
    label_names: dict[int, str]
    step: int = 0
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        names = {str(key): name for key, name in self.label_names.items()}
        return {"model": self.model.to_dict(), "label_names": names, "step": self.step, "extra": self.extra}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Meta":
        names = {int(key): str(name) for key, name in values["label_names"].items()}
        extra, step = values["extra"], values["step"]
        if not isinstance(extra, dict) or not isinstance(extra.get("config", {}), dict) or type(step) is not int:
            raise ValueError("its meta file is not what was written")
        return cls(YolosConfig.from_dict(values["model"]), names, step, extra)


def steps(directory: str | Path) -> list[int]:
    """Steps saved in `directory`, ascending; empty if there are none or no such folder."""
    path = Path(directory)
    if not path.is_dir():
        return []
    return sorted(int(p.name) for p in path.iterdir() if p.name.isdigit() and (p / "meta").is_dir())


def check_free(directory: str | Path) -> None:
    """`InputError` if a folder holds weights already. Ask before working for hours."""
    path = Path(directory)
    if steps(path):
        raise InputError(f"{path} already holds a checkpoint (step {steps(path)[-1]}); choose another folder.")
    if (path / "config.json").exists():
        raise InputError(f"{path} holds other weights (config.json); choose another folder.")


def save(directory: str | Path, step: int, params: dict, meta: Meta) -> None:
    """Writes one checkpoint and waits until it is whole; refuses a folder that has weights already."""
    check_free(directory)
    path = make_folder(directory).absolute()
    try:
        with ocp.CheckpointManager(path) as manager:
            parts = {"params": ocp.args.StandardSave(params), "meta": ocp.args.JsonSave(meta.to_json())}
            manager.save(step, args=ocp.args.Composite(**parts))
            manager.wait_until_finished()
    except OSError as error:
        raise InputError(f"the checkpoint could not be written to {path}: {error}.") from error


def load(directory: str | Path) -> tuple[dict, Meta]:
    """The newest checkpoint of a folder: (parameters as numpy arrays, its `Meta`)."""
    path = Path(directory).absolute()
    found = steps(path)
    if not found:
        what = "holds no checkpoint" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {what}; give the --workdir of a training run or the --out of convert.py.")
    try:
        with ocp.CheckpointManager(path) as manager:
            meta = Meta.from_json(manager.restore(found[-1], args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta)
            params = manager.restore(
                found[-1], args=ocp.args.Composite(params=ocp.args.StandardRestore(_numpy_target(meta.model)))
            ).params
    except InputError:
        raise
    except Exception as error:  # orbax and tensorstore raise many kinds for a damaged folder
        reason = str(error).strip().split("\n")[0][:200]
        raise InputError(f"the checkpoint {path}/{found[-1]} cannot be read ({reason}).") from error
    return jax.tree.map(np.asarray, params), meta


def _numpy_target(config: YolosConfig) -> dict:
    """A tree with the wanted shapes, restored to one local device whatever wrote it."""
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract(config)[1])
