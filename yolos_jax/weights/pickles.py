"""State dicts from PyTorch's files, zip and legacy alike, never by free unpickling."""

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

_OLDEST_TORCH = (2, 10)  # before it, files could corrupt memory in spite of weights_only (CVE-2026-24747)
# Entries of training states that hold weights, the one that the method's own evaluations take first: "model" of the
# reference, DeiT and MAE, "teacher" of DINO, "state_dict" of MoCo v3.
ENTRIES = ("model", "teacher", "state_dict", "model_ema", "student")


def read_pickle(path: Path, shapes: bool = False) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Arrays of any dtype by name, and notes on where they were; unpickles only tensors, containers and `Namespace`.

    With `shapes`, the arrays are `limits.hollow`, and of a zip hardly more is read than its index.

    `InputError` if PyTorch is absent, or the file is damaged, unsafe or absurd, or does not hold a state dict.
    """
    try:
        import torch
    except ImportError as error:
        sentence = f"reading {path} needs PyTorch: pip install torch, or save the weights as .safetensors."
        raise InputError(sentence) from error
    if tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2]) < _OLDEST_TORCH:
        raise InputError(
            f"reading {path} needs PyTorch 2.10 or newer, and here is {torch.__version__}, which files can harm "
            "(CVE-2026-24747): pip install -U torch, or save the weights as .safetensors."
        )
    _check_size(path)
    try:
        # the reference keeps its command line, a Namespace, beside the weights
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what our own error says, or of what no user can change
            lazy = shapes and zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=lazy)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InputError(_refusal(path, str(error))) from error
    content, notes = _state_dict(content)
    _check_tensors(content, torch, path)
    if shapes:
        return {name: hollow(value.shape) for name, value in content.items()}, notes
    return {name: _to_numpy(value, torch) for name, value in content.items()}, notes


def _state_dict(content: Any) -> tuple[Any, tuple[str, ...]]:
    """The weights of a training state, and a note on what else it holds; anything else as it is."""
    for entry in ENTRIES if isinstance(content, dict) else ():
        if isinstance(content.get(entry), dict):
            others = ", ".join(sorted(shown(key) for key in content if key != entry))
            note = f"entry {entry!r} of the file taken; left out: {others}."
            return content[entry], (note,) if others else ()
    return content, ()


def _check_size(path: Path) -> None:
    """Refuses a file that would unpack to more than it could honestly hold."""
    size = unpacked = check_file(path, most=2**63)
    try:
        if zipfile.is_zipfile(path):
            unpacked = sum(entry.file_size for entry in zipfile.ZipFile(path).infolist())
    except Exception as error:  # zipfile raises many kinds for a damaged index
        raise InputError(f"{path} is not a readable PyTorch file ({error}).") from error
    if max(size, unpacked) > MOST_BYTES or unpacked > size:
        raise InputError(
            f"{path} has {size} bytes and says that they unpack to {unpacked}; a PyTorch file is not compressed, and "
            f"of YOLOS or a ViT far below {MOST_BYTES >> 30} GiB."
        )


def _check_tensors(content: Any, torch: Any, path: Path) -> None:
    """Refuses anything but a dict of plain tensors, and tensors that claim more numbers than are stored."""
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a dict of tensors; save the state dict.")
    claimed, size = 0, path.stat().st_size
    for name, tensor in content.items():
        if not isinstance(name, str):
            raise InputError(f"{path} is not a state dict: it has an entry {shown(name)}, and names are text.")
        if not isinstance(tensor, torch.Tensor):
            kind = type(tensor).__name__
            raise InputError(f"{path} is not a state dict: its entry {shown(name)} is a {kind}, not a tensor.")
        of_it = f"{plain(name)} of {path}"
        wanted = tensor.numel() * tensor.element_size()
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise InputError(f"the tensor {of_it} is sparse, quantised or empty; save plain ones.")
        if wanted > tensor.untyped_storage().nbytes():
            raise InputError(
                f"the tensor {of_it} has shape {list(tensor.shape)}, more numbers than are stored for "
                "it; save the state dict again, its tensors made contiguous."
            )
        check_floating(str(tensor.dtype).removeprefix("torch."), tensor.shape, name, path)
        claimed += wanted  # tensors may share what is stored, but each becomes an array of its own
        if claimed > size:
            raise InputError(
                f"the tensors of {path} up to {plain(name)} claim {claimed} bytes, and the file has {size}: they share "
                "what is stored; save the state dict again, each tensor cloned."
            )


def _refusal(path: Path, reason: str) -> str:
    """The sentence for a file that `torch.load` refused; names the forbidden object if there is one."""
    forbidden = re.search(r"GLOBAL (\S+)", reason)
    if forbidden:
        return (
            f"{path} holds {forbidden[1].rstrip('.')}, which is not a tensor; unpickling it could run code, so it was "
            "not read. Save the state dict alone, best as .safetensors."
        )
    if re.search(r"weights.only", reason, re.IGNORECASE):  # torch's own words go on to advise reading it unsafely
        return f"{path} is not a readable PyTorch file (another format, corrupted, or more than tensors)."
    first_line = reason.strip().split("\n")[0][:200]
    return f"{path} is not a readable PyTorch file ({first_line or 'no reason given'})."


def _to_numpy(tensor: Any, torch: Any) -> np.ndarray:
    """The same numbers in numpy; bfloat16, which torch cannot hand over, by its bits."""
    tensor = tensor.detach().resolve_neg().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(bfloat16)
    return tensor.numpy()
