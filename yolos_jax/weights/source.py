"""A source of weights: which of the three kinds it is, and its tensors."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from yolos_jax.errors import InputError
from yolos_jax.weights.files import read_folder, read_json, read_tensors


@dataclasses.dataclass(frozen=True)
class Source:
    """Foreign weights as found.

    Attributes:
      kind: "reference", "huggingface" or "deit".
      state: numpy float32 arrays under the source's own names.
      hf_config: the content of a Hugging Face `config.json`, or None.
      path: where it was read.
      cast: "name (dtype)" of each tensor that was not float32 in the file.
    """

    kind: str
    state: dict[str, np.ndarray]
    hf_config: dict[str, Any] | None
    path: Path
    cast: tuple[str, ...] = ()


def read_source(path: str | Path) -> Source:
    """Reads weights from a `.safetensors`, a `.pth` (needs PyTorch) or a Hugging Face folder.

    Raises:
      InputError: nothing there, unreadable, unsafe to read, or not YOLOS and not DeiT.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"{path} does not exist; give a .safetensors or .pth file or a Hugging Face folder "
            "(a model on the hub has to be downloaded first)."
        )
    if path.is_dir():
        tensors, hf_config = read_folder(path)
    else:
        tensors, hf_config = read_tensors(path), None
    kind = _kind(tensors.state, path)
    if kind == "huggingface" and path.is_file() and (path.parent / "config.json").is_file():
        hf_config = read_json(path.parent / "config.json")
    if kind == "huggingface" and hf_config is not None and hf_config.get("model_type") != "yolos":
        raise InputError(f"the config.json of {path} has model_type {hf_config.get('model_type')!r}, not 'yolos'.")
    return Source(kind, tensors.state, hf_config if kind == "huggingface" else None, path, tensors.cast)


def _kind(state: dict[str, np.ndarray], path: Path) -> str:
    if any(name.startswith("backbone.") for name in state):
        return "reference"
    if any(name.startswith(("vit.", "class_labels_classifier.")) for name in state):
        return "huggingface"
    if {"patch_embed.proj.weight", "patch_embed.proj.bias", "pos_embed"} <= state.keys():
        return "deit"
    some = ", ".join(list(state)[:4]) or "none"
    raise InputError(
        f"the tensors of {path} ({some}{', ...' if len(state) > 4 else ''}) are neither those of YOLOS (reference or "
        "Hugging Face names) nor those of a DeiT/timm classifier."
    )
