"""A source of weights: where it lies, which of the three kinds it is, and its tensors."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yolos_jax.errors import InputError, check_path, shown
from yolos_jax.weights.backbone import prefixes
from yolos_jax.weights.files import Tensors, read_folder, read_json, read_tensors
from yolos_jax.weights.hub import fetch, hub_model
from yolos_jax.weights.limits import plain

_CLASSIFIERS = ("vit", "deit", "vit_mae")  # transformers' model types that a detector can start from
_WRAPPERS = ("_orig_mod.", "module.", "model.")
# What names start with in a state dict of a detector, by the kind of source.
_HEADS = {
    "reference": ("class_embed.", "bbox_embed.", "backbone.det_token"),
    "huggingface": ("class_labels_classifier.", "bbox_predictor.", "vit.embeddings.detection_tokens"),
}


class Source(NamedTuple):
    """Foreign weights as found."""

    kind: str  # "reference", "huggingface" or "deit" (any ViT to start from)
    name: str  # what to call it: the path as given, or the hub's `org/name@commit`
    state: dict[str, np.ndarray]  # float32 arrays under the source's own names
    cast: tuple[str, ...]  # this and `notes`: see `report.Report`
    notes: tuple[str, ...]
    hf_config: dict[str, Any] | None = None  # the content of a Hugging Face YOLOS `config.json`
    processor: dict[str, Any] | None = None  # the content of the `preprocessor_config.json` beside YOLOS weights


def read_source(path: str | Path) -> Source:
    """Reads weights from a `.safetensors`, a `.pth` (needs PyTorch), a Hugging Face folder, or the hub (`hub_model`).

    Raises:
      InputError: nothing there, unreadable, unsafe to read, or not YOLOS and no ViT.
    """
    path, name = _find(path)
    folder = path if path.is_dir() else path.parent
    config = processor = None
    if path.is_dir():
        config = read_json(folder / "config.json")
        model_type = config.get("model_type", "yolos")  # timm's configs have none
        if model_type not in ("yolos", *_CLASSIFIERS):  # refused before its tensors are read
            raise InputError(
                f"the config.json of {name} has model_type {shown(model_type)}, not 'yolos' (nor one of "
                f"{', '.join(_CLASSIFIERS)}, to start from)."
            )
    tensors = unwrapped(read_folder(path) if path.is_dir() else read_tensors(path), name)
    kind = _kind(tensors.state, name)
    if kind == "deit" and config is not None and config.get("model_type") == "yolos":
        raise InputError(
            f"{name} has model_type 'yolos', but none of its tensors is a detection head under a name known here."
        )
    if kind != "huggingface":
        return Source(kind, name, *tensors)
    if (folder / "config.json").is_file():
        config = config or read_json(folder / "config.json")
        if config.get("model_type") != "yolos":
            raise InputError(
                f"the config.json of {name} has model_type {shown(config.get('model_type'))}, not 'yolos'."
            )
        if (folder / "preprocessor_config.json").is_file():
            processor = read_json(folder / "preprocessor_config.json")
    return Source(kind, name, *tensors, config, processor)


def unwrapped(tensors: Tensors, what: str) -> Tensors:
    """Without what torch.compile, DistributedDataParallel and wrapping modules put before the names of a detector."""
    state, taken = tensors.state, ""
    while not any(name.startswith(heads) for name in state for heads in _HEADS.values()):
        prefix = next((p for p in _WRAPPERS if any(name.startswith(p) for name in state)), None)
        if prefix is None:
            return tensors
        state = {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}
        taken += prefix
    if not taken:
        return tensors
    left = len(tensors.state) - len(state)
    rest = f"; left out: {left} tensors without it" if left else ""
    return tensors._replace(state=state, notes=(*tensors.notes, f"the prefix {taken!r} of names was removed{rest}."))


def _find(path: str | Path) -> tuple[Path, str]:
    """(the file or folder that a path or a name on the hub means, what to call it)."""
    check_path(path)
    model = hub_model(path)
    if model is not None:
        folder = fetch(model)
        return folder, f"{model.id}@{folder.name[:12]}"
    path = Path(path)
    if not path.exists():
        hint = ", or a model on the hub (org/name)"
        if hub_model(f"{path}@main") is not None:
            hint = f" (there is a folder {path.parent} here, so the hub was not asked; {path}@main asks it)"
        raise InputError(f"{path} does not exist; give a .safetensors or .pth file or a Hugging Face folder{hint}.")
    if path.is_dir() and not (path / "config.json").is_file():
        raise InputError(f"the folder {path} has no config.json; a Hugging Face folder holds one beside its weights.")
    return path, str(path)


def _kind(state: dict[str, np.ndarray], what: str) -> str:
    for kind, heads in _HEADS.items():
        if any(name.startswith(heads) for name in state):
            return kind
    if prefixes(state):
        return "deit"
    some = ", ".join(plain(name) for name in list(state)[:4]) or "none"
    raise InputError(
        f"the tensors of {what} ({some}{', ...' if len(state) > 4 else ''}) are neither those of YOLOS (reference or "
        "Hugging Face names) nor those of a DeiT/timm classifier or another ViT."
    )
