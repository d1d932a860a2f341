"""Tensors from files: `.safetensors` without PyTorch, `.pth` with it and never by free unpickling."""

import argparse
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.dtypes import bfloat16
from safetensors import SafetensorError, safe_open

from yolos_jax.errors import InputError

_TORCH_SUFFIXES = (".pth", ".pt", ".bin")
_CASTABLE = (np.dtype(np.float16), np.dtype(bfloat16), np.dtype(np.float64))


class Tensors(NamedTuple):
    """numpy float32 arrays by name, and "name (dtype)" of those that had another dtype in the file."""

    state: dict[str, np.ndarray]
    cast: tuple[str, ...]


def read_tensors(path: Path) -> Tensors:
    """All tensors of one file; `InputError` if it is no weights file or cannot be read."""
    if path.suffix == ".safetensors":
        return _as_float32(_read_safetensors(path), path)
    if path.suffix in _TORCH_SUFFIXES:
        return _as_float32(_read_torch(path), path)
    raise InputError(f"{path} is not a weights file; give a .safetensors, a .pth, or a Hugging Face folder.")


def read_folder(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and `config.json` of a folder from the Hugging Face hub (transformers' YOLOS, or timm's DeiT).

    Takes `model.safetensors`, its sharded form, or `pytorch_model.bin`.
    """
    if not (path / "config.json").is_file():
        raise InputError(f"the folder {path} has no config.json; a Hugging Face folder holds one beside its weights.")
    config = read_json(path / "config.json")
    if "model_type" in config and config["model_type"] != "yolos":
        raise InputError(f"the config.json of {path} has model_type {config['model_type']!r}, not 'yolos'.")
    if (path / "model.safetensors").is_file():
        return read_tensors(path / "model.safetensors"), config
    if (path / "model.safetensors.index.json").is_file():
        return _as_float32(_read_shards(path), path), config
    if (path / "pytorch_model.bin").is_file():
        return read_tensors(path / "pytorch_model.bin"), config
    raise InputError(f"the folder {path} has a config.json but no model.safetensors (nor a sharded one).")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no JSON object.")
    return values


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="np") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}
    # the last three: dtypes that numpy lacks
    except (SafetensorError, OSError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is not a readable safetensors file ({error}).") from error


def _read_shards(path: Path) -> dict[str, np.ndarray]:
    """The tensors of all shards that the index names, each where the index says it is."""
    index = path / "model.safetensors.index.json"
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise InputError(f"{index} has no weight_map from tensors to files.")
    state: dict[str, np.ndarray] = {}
    for shard in sorted(set(where.values())):
        if Path(shard).name != shard or not (path / shard).is_file():
            raise InputError(f"{index} names the shard {shard!r}, which is not in the folder; download it again.")
        found = _read_safetensors(path / shard)
        absent = [name for name, file in where.items() if file == shard and name not in found]
        if absent:
            raise InputError(f"the shard {path / shard} lacks {', '.join(absent)}, which the index places there.")
        state |= found
    return state


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    """The state dict of a PyTorch file, unpickling nothing but tensors, containers and `argparse.Namespace`."""
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"reading {path} needs PyTorch: pip install torch, or save the weights as .safetensors."
        ) from error
    try:
        # the reference keeps its command line, a Namespace, beside the weights
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InputError(_torch_refusal(path, str(error))) from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a dict of tensors; save the state dict.")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise InputError(
                f"{path} is not a state dict: its entry {name!r} is a {type(value).__name__}, not a tensor."
            )
    return {name: _torch_to_numpy(value, torch) for name, value in content.items()}


def _torch_refusal(path: Path, reason: str) -> str:
    """The sentence for a file that `torch.load` refused; names the forbidden object if there is one."""
    forbidden = re.search(r"GLOBAL (\S+)", reason)
    if forbidden:
        return (
            f"{path} holds {forbidden[1].rstrip('.')}, which is not a tensor; unpickling it could run code, so it was "
            "not read. Save the state dict alone, best as .safetensors."
        )
    first_line = reason.strip().split("\n")[0][:200]
    return f"{path} is not a readable PyTorch file ({first_line or 'no reason given'})."


def _torch_to_numpy(tensor: Any, torch: Any) -> np.ndarray:
    """The same numbers in numpy; bfloat16, which torch cannot hand over, by its bits."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(bfloat16)
    return tensor.numpy()


def _as_float32(state: dict[str, np.ndarray], path: Path) -> Tensors:
    cast = []
    for name, array in state.items():
        if array.dtype == np.float32:
            continue
        if array.dtype not in _CASTABLE:
            raise InputError(f"the tensor {name} of {path} has dtype {array.dtype}; weights are floating point.")
        cast.append(f"{name} ({array.dtype})")
        state[name] = array.astype(np.float32)
    return Tensors(state, tuple(cast))
