"""Reads state dicts from PyTorch files, in the zip and legacy formats, with restricted unpickling."""

import argparse
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jax.dtypes import bfloat16

from yolos_jax.errors import InputError, shown
from yolos_jax.user_files import check_file
from yolos_jax.weights.limits import MOST_BYTES, check_floating, hollow, plain

_OLDEST_TORCH = (2, 10)  # older versions allow memory corruption despite weights_only (CVE-2026-24747)
# Entries that contain the weights in training states, in order of preference: "model" in the reference, DeiT and MAE,
# "teacher" in DINO, "state_dict" in MoCo v3.
ENTRIES = ("model", "teacher", "state_dict", "model_ema", "student")


def read_pickle(path: Path, shapes: bool = False) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns arrays of any dtype, keyed by name, and notes; unpickles only tensors, containers and `Namespace`.

    If `shapes` is set, the arrays are `limits.hollow`, and little more than the index of a zip file is read.

    Raises `InputError` if PyTorch is missing, or the file is damaged, unsafe, too large or not a state dict.
    """
    try:
        import torch
    except ImportError as error:
        sentence = f"reading {path} requires PyTorch; run pip install torch, or save the weights as .safetensors."
        raise InputError(sentence) from error
    if tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2]) < _OLDEST_TORCH:
        raise InputError(
            f"reading {path} requires PyTorch 2.10 or newer, but {torch.__version__} is installed, which is vulnerable "
            "(CVE-2026-24747); run pip install -U torch, or save the weights as .safetensors."
        )
    _check_size(path)
    try:
        # the reference stores its command line, a Namespace, next to the weights
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's warnings repeat our errors, or users cannot act on them
            lazy = shapes and zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=lazy)
    except Exception as error:  # torch raises various exceptions for a damaged file
        raise InputError(_refusal(path, str(error))) from error
    content, notes = _state_dict(content)
    _check_tensors(content, torch, path)
    if shapes:
        return {name: hollow(value.shape) for name, value in content.items()}, notes
    return {name: _to_numpy(value, torch) for name, value in content.items()}, notes


def _state_dict(content: Any) -> tuple[Any, tuple[str, ...]]:
    """Returns the weights in a training state, and a note about its other entries; returns other content unchanged."""
    for entry in ENTRIES if isinstance(content, dict) else ():
        if isinstance(content.get(entry), dict):
            others = ", ".join(sorted(shown(key) for key in content if key != entry))
            note = f"the entry {entry!r} of the file is used; other entries are ignored: {others}."
            return content[entry], (note,) if others else ()
    return content, ()


def _check_size(path: Path) -> None:
    """Rejects a file that would unpack to more than its size or the limit."""
    size = unpacked = check_file(path, most=2**63)
    try:
        if zipfile.is_zipfile(path):
            unpacked = sum(entry.file_size for entry in zipfile.ZipFile(path).infolist())
    except Exception as error:  # zipfile raises various exceptions for a damaged index
        raise InputError(f"{path} is not a readable PyTorch file ({error}).") from error
    if max(size, unpacked) > MOST_BYTES or unpacked > size:
        raise InputError(
            f"{path} has {size} bytes and would unpack to {unpacked}; PyTorch files are not compressed, and "
            f"those for YOLOS or a ViT are far smaller than {MOST_BYTES >> 30} GiB."
        )


def _check_tensors(content: Any, torch: Any, path: Path) -> None:
    """Rejects anything other than a dict of plain tensors, and tensors larger than their storage."""
    if not isinstance(content, dict):
        raise InputError(f"{path} contains a value of type {type(content).__name__}, not a state dict.")
    claimed, size = 0, path.stat().st_size
    for name, tensor in content.items():
        if not isinstance(name, str):
            raise InputError(f"{path} is not a state dict: its key {shown(name)} is not a string.")
        if not isinstance(tensor, torch.Tensor):
            kind = type(tensor).__name__
            raise InputError(f"{path} is not a state dict: its entry {shown(name)} has type {kind}.")
        of_it = f"{plain(name)} of {path}"
        wanted = tensor.numel() * tensor.element_size()
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise InputError(f"the tensor {of_it} is sparse, quantised or has no data; save dense tensors.")
        if wanted > tensor.untyped_storage().nbytes():
            raise InputError(
                f"the tensor {of_it} has shape {list(tensor.shape)}, which is larger than its "
                "storage; save the state dict again with contiguous tensors."
            )
        check_floating(str(tensor.dtype).removeprefix("torch."), tensor.shape, name, path)
        claimed += wanted  # tensors may share storage, but each becomes a separate array
        if claimed > size:
            raise InputError(
                f"the tensors of {path} up to {plain(name)} need {claimed} bytes, but the file has only {size}, so "
                "they share storage; save the state dict again with cloned tensors."
            )


def _refusal(path: Path, reason: str) -> str:
    """Returns an error message for a file that `torch.load` rejected; it names the forbidden object, if any."""
    forbidden = re.search(r"GLOBAL (\S+)", reason)
    if forbidden:
        return (
            f"{path} contains {forbidden[1].rstrip('.')}, which is not a tensor; unpickling it could run code, so the "
            "file was not read. Save only the state dict, preferably as .safetensors."
        )
    if re.search(r"weights.only", reason, re.IGNORECASE):  # torch's message recommends unsafe loading
        return f"{path} is not a PyTorch file, is corrupted, or contains objects other than tensors."
    first_line = reason.strip().split("\n")[0][:200]
    return f"{path} is not a readable PyTorch file ({first_line or 'no reason given'})."


def _to_numpy(tensor: Any, torch: Any) -> np.ndarray:
    """Converts a tensor to a numpy array; bfloat16, which torch cannot convert, is reinterpreted from its bits."""
    tensor = tensor.detach().resolve_neg().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(bfloat16)
    return tensor.numpy()
