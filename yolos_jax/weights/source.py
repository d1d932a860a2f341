"""Finds third-party weights, determines which of three kinds they are, and reads their tensors."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yolos_jax.address import copied
from yolos_jax.errors import InputError, check_path, shown
from yolos_jax.weights.backbone import prefixes
from yolos_jax.weights.hub import download, hub_model
from yolos_jax.weights.limits import plain
from yolos_jax.weights.tensor_files import OF_A_FOLDER, Tensors, read_folder, read_json_object, read_tensors
from yolos_jax.weights.vit_settings import VIT_TYPES

_WRAPPERS = ("_orig_mod.", "module.", "model.")
# Prefixes of tensor names that only detectors have, for each kind of source.
_DETECTOR_NAMES = {
    "reference": ("class_embed.", "bbox_embed.", "backbone.det_token"),
    "huggingface": ("class_labels_classifier.", "bbox_predictor.", "vit.embeddings.detection_tokens"),
}


class ForeignWeights(NamedTuple):
    """Third-party weights before conversion."""

    kind: str  # "reference", "huggingface" or "deit" (any ViT to start from)
    name: str  # for messages: the given path, or `org/name@commit` for the hub
    state: dict[str, np.ndarray]  # float32 arrays with the source's names
    cast: tuple[str, ...]  # for `cast` and `notes`, see `report.Report`
    notes: tuple[str, ...]
    hf_config: dict[str, Any] | None = None  # content of the `config.json` in the same folder
    processor: dict[str, Any] | None = None  # content of the `preprocessor_config.json` in the same folder


def read_source(path: str | Path, shapes: bool = False) -> ForeignWeights:
    """Reads weights from a `.safetensors` file, a `.pth` file (requires PyTorch), a Hugging Face folder, or the hub.

    If `shapes` is set, the arrays are `limits.hollow`, and no values are read. Raises `InputError` if the weights do
    not exist, are unreadable or unsafe to read, or are neither YOLOS nor a ViT.
    """
    path, name = _find(path)
    folder, config, processor = path if path.is_dir() else path.parent, None, None
    if path.is_dir() or (path.name in OF_A_FOLDER and (folder / "config.json").is_file()):
        config = read_json_object(folder / "config.json")
        model_type = config.get("model_type", "yolos")  # timm's configs have no model_type
        if model_type not in ("yolos", *VIT_TYPES):  # checked before the tensors are read
            others = f"(or {', '.join(VIT_TYPES)} for a ViT to start from)"
            raise InputError(f"the config.json of {name} has model_type {shown(model_type)}, not 'yolos' {others}.")
    tensors = _unwrapped(read_folder(path, shapes) if path.is_dir() else read_tensors(path, shapes))
    kind = _kind(tensors.state, name)
    if kind == "deit" and config is not None and config.get("model_type") == "yolos":
        why = "none of its tensors belongs to a known detection head"
        raise InputError(f"{name} has model_type 'yolos', but {why}.")
    if kind == "huggingface" and (folder / "config.json").is_file():
        config = config or read_json_object(folder / "config.json")
        model_type = config.get("model_type")
        if model_type != "yolos":
            raise InputError(f"the config.json of {name} has model_type {shown(model_type)}, not 'yolos'.")
    if kind != "reference" and config is not None and (folder / "preprocessor_config.json").is_file():
        processor = read_json_object(folder / "preprocessor_config.json")
    return ForeignWeights(kind, name, *tensors, config, processor)


def _unwrapped(tensors: Tensors) -> Tensors:
    """Removes prefixes that torch.compile, DistributedDataParallel and wrapper modules add to tensor names."""
    state, taken = tensors.state, ""
    while _detector_kind(state) is None:
        there = [prefix for prefix in _WRAPPERS if any(name.startswith(prefix) for name in state)]
        if not there:
            return tensors
        prefix = there[0]
        state = {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}
        taken += prefix
    if not taken:
        return tensors
    left = len(tensors.state) - len(state)
    rest = f"; tensors without it are ignored: {left}" if left else ""
    return tensors._replace(state=state, notes=(*tensors.notes, f"removed the prefix {taken!r} from the names{rest}."))


def _find(path: str | Path) -> tuple[Path, str]:
    """Returns the file or folder for a path or a name on the hub, and its name for messages."""
    path = copied(path)
    check_path(path)
    model = hub_model(path)
    if model is not None:
        folder = download(model)
        return folder, f"{model.id}@{folder.name[:12]}"
    path = Path(path)
    if not path.exists():
        hint = ", or a model on the hub (org/name)"
        if hub_model(f"{path}@main") is not None:
            hint = f" ({path.parent} is a local folder, so the hub was skipped; use {path}@main for the hub)"
        raise InputError(f"{path} does not exist; use a .safetensors or .pth file or a Hugging Face folder{hint}.")
    if path.is_dir() and not (path / "config.json").is_file():
        raise InputError(f"the folder {path} has no config.json; a Hugging Face folder has one next to its weights.")
    return path, str(path)


def _detector_kind(state: dict[str, np.ndarray]) -> str | None:
    """Returns "reference" or "huggingface" according to the tensor names, or None if it is not a detector."""
    for kind, beginnings in _DETECTOR_NAMES.items():
        if any(name.startswith(beginnings) for name in state):
            return kind
    return None


def _kind(state: dict[str, np.ndarray], what: str) -> str:
    """Returns the kind of a source; raises `InputError` if it is not one of the three."""
    kind = _detector_kind(state) or ("deit" if prefixes(state) else None)
    if kind is not None:
        return kind
    some = ", ".join(plain(name) for name in list(state)[:4]) or "none"
    more = ", ..." if len(state) > 4 else ""
    raise InputError(
        f"the tensors of {what} ({some}{more}) do not belong to YOLOS (reference or Hugging Face names), a DeiT/timm "
        "classifier or another ViT."
    )
