"""Reads tensors from `.safetensors` files (without PyTorch) and `.pth` files (with PyTorch, restricted unpickling)."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from yolos_jax.errors import InputError, shown
from yolos_jax.user_files import check_file, read_text
from yolos_jax.weights.limits import MOST_BYTES, MOST_JSON, check_floating, hollow, plain
from yolos_jax.weights.pickles import read_pickle

WEIGHTS_ENDINGS = (".safetensors", ".pth", ".pth.tar", ".pt", ".bin", ".ckpt")  # .ckpt: PyTorch Lightning
INDEX = "model.safetensors.index.json"
OF_A_FOLDER = ("model.safetensors", INDEX, "pytorch_model.bin")  # weights in a folder from the hub


class Tensors(NamedTuple):
    """The tensors of a source as numpy float32 arrays, keyed by name; for `cast` and `notes`, see `report.Report`."""

    state: dict[str, np.ndarray]
    cast: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_tensors(path: Path, shapes: bool = False) -> Tensors:
    """Reads all tensors of a file; raises `InputError` if it cannot be read or is not a weights file.

    If `shapes` is set, the arrays are `limits.hollow`, and as little of the file is read as its format allows.
    """
    if path.suffix == ".safetensors":
        return _as_float32(_read_safetensors(path, shapes), path, shapes)
    if path.name.endswith(WEIGHTS_ENDINGS):
        state, notes = read_pickle(path, shapes)
        return _as_float32(state, path, shapes)._replace(notes=notes)
    raise InputError(f"{path} is not a weights file; use a .safetensors or .pth file or a Hugging Face folder.")


def read_folder(path: Path, shapes: bool = False) -> Tensors:
    """Reads the tensors of a folder from the hub: `model.safetensors`, its shards, or `pytorch_model.bin`."""
    for name in OF_A_FOLDER:
        if (path / name).is_file() and name == INDEX:
            return _as_float32(_read_shards(path, shapes), path, shapes)
        if (path / name).is_file():
            return read_tensors(path / name, shapes)
    raise InputError(f"the folder {path} has a config.json but no model.safetensors, shards or pytorch_model.bin.")


def read_json_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object from a file."""
    text = read_text(path, most=MOST_JSON)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} does not contain a JSON object.")
    return values


def _read_safetensors(path: Path, shapes: bool) -> dict[str, np.ndarray]:
    """Reads all tensors of a safetensors file.

    The library checks the header against the file before it allocates memory, and rejects headers above 100 MB. It
    does not limit the size of the file, which may be far larger than its disk space if the file is sparse.
    """
    check_file(path, most=MOST_BYTES)
    try:
        with safe_open(path, framework="np") as file:
            names = file.keys()
            if shapes:
                return {name: hollow(file.get_slice(name).get_shape()) for name in names}
            return {name: file.get_tensor(name) for name in names}
    # the last three exceptions are raised for dtypes that numpy does not support
    except (SafetensorError, OSError, ValueError, MemoryError, TypeError, KeyError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).split("\n")[0][:200]
        raise InputError(f"{path} is not a readable safetensors file ({reason}).") from error


def _read_shards(path: Path, shapes: bool) -> dict[str, np.ndarray]:
    """Reads the tensors of all shards; each tensor must be in the shard that the index lists for it."""
    index = path / INDEX
    where = read_json_object(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise InputError(f"{index} has no weight_map from tensors to files.")
    state: dict[str, np.ndarray] = {}
    for shard in sorted(set(where.values())):
        if "\0" in shard or Path(shard).name != shard or not (path / shard).is_file():
            raise InputError(f"{index} names the shard {shown(shard)}, which is not in the folder; download it again.")
        found = _read_safetensors(path / shard, shapes)
        absent = [name for name, file in where.items() if file == shard and name not in found]
        if absent:
            some = ", ".join(map(plain, absent[:6])) + (", ..." if len(absent) > 6 else "")
            raise InputError(f"the shard {path / shard} lacks {some}, which should be in it according to the index.")
        twice = [name for name in found if name in state]
        if twice:
            raise InputError(f"the shard {path / shard} contains {plain(twice[0])}, which is also in another shard.")
        state |= found
    return state


def _as_float32(state: dict[str, np.ndarray], path: Path, shapes: bool) -> Tensors:
    if shapes:  # hollow arrays have no values to check
        return Tensors(state)
    cast = []
    for name, array in state.items():
        check_floating(str(array.dtype), array.shape, name, path)
        if array.dtype != np.float32:
            cast.append(f"{name} ({array.dtype})")
            with np.errstate(over="ignore", invalid="ignore"):
                state[name] = array.astype(np.float32)
        if not np.isfinite(state[name]).all():
            raise InputError(
                f"the tensor {plain(name)} of {path} has values that are not finite in float32 (nan or infinite); "
                "the weights are damaged, or their training diverged."
            )
    return Tensors(state, tuple(cast))
