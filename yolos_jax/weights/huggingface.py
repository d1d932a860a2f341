"""Hugging Face YOLOS folders (`config.json` + `model.safetensors`) <-> our parameters."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from yolos_jax.errors import InputError
from yolos_jax.model.config import YolosConfig
from yolos_jax.weights.names import (
    check,
    current_huggingface_name,
    huggingface_names,
    huggingface_shapes,
    reference_shapes,
)
from yolos_jax.weights.reference import from_reference, to_reference

CLASSIFIER = "class_labels_classifier.layers.2.weight"
NO_NAME = "N/A"  # what Hugging Face's COCO models call the ids that COCO does not use
# transformers' defaults for settings that a config.json leaves out
_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "image_size": [512, 864],
    "patch_size": 16,
    "num_detection_tokens": 100,
    "use_mid_position_embeddings": True,
    "num_labels": 2,
}
# settings that we know one value of only (also transformers' default)
_FIXED = {"hidden_act": "gelu", "qkv_bias": True, "num_channels": 3}


def from_huggingface(state: Mapping[str, np.ndarray], config: YolosConfig, what: str = "the state dict") -> dict:
    """Our parameters from Hugging Face's tensors (names of any transformers version); see `from_reference`."""
    state = {current_huggingface_name(name, state): array for name, array in state.items()}
    check(state, huggingface_shapes(config), what)
    joined = {}
    for name in reference_shapes(config):
        parts = [state[theirs] for theirs in huggingface_names(name)]
        joined[name] = np.concatenate(parts) if len(parts) > 1 else parts[0]
    return from_reference(joined, config, what)


def to_huggingface(params: Mapping, config: YolosConfig) -> dict[str, np.ndarray]:
    """The state dict (numpy float32) of transformers' `YolosForObjectDetection`; undoes `from_huggingface`."""
    out = {}
    for name, array in to_reference(params, config).items():
        names = huggingface_names(name)
        out.update(zip(names, np.split(array, len(names)), strict=True))
    return out


def read_config(values: Mapping[str, Any], what: str) -> tuple[YolosConfig, dict[int, str]]:
    """Settings and label names of a YOLOS `config.json`.

    Args:
      values: its content.
      what: what to call it in an error.

    Returns:
      (config, names by class id without the placeholder "N/A").

    Raises:
      InputError: a setting is unusable or asks for something this model does not do.
    """
    for name, only in _FIXED.items():
        if values.get(name, only) != only:
            raise InputError(f"{what} sets {name} to {values[name]!r}; only {only!r} is supported.")
    values = {**_DEFAULTS, **values}
    names = _label_names(values, what)
    try:
        height, width = _pair(values["image_size"])
        patch = _pair(values["patch_size"])
        if patch[0] != patch[1]:
            raise ValueError("patch_size is not square")
        hidden, inner = int(values["hidden_size"]), int(values["intermediate_size"])
        config = YolosConfig(
            width=hidden,
            depth=int(values["num_hidden_layers"]),
            heads=int(values["num_attention_heads"]),
            mlp_ratio=_ratio(hidden, inner),
            patch_size=patch[0],
            det_tokens=int(values["num_detection_tokens"]),
            num_classes=len(names),
            init_pe_size=(height, width),
            mid_pe_size=(height, width) if values["use_mid_position_embeddings"] else None,
            layer_norm_eps=float(values["layer_norm_eps"]),
        )
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"{what} is not a usable YOLOS configuration ({error}).") from error
    return config, {i: name for i, name in names.items() if name != NO_NAME}


def write_config(config: YolosConfig, label_names: Mapping[int, str] | None) -> dict[str, Any]:
    """The `config.json` of a model; ids without a name become "N/A" (all of them "LABEL_i" if none has one).

    Raises:
      InputError: Hugging Face cannot say it (two different position grids), or a label id is no class.
    """
    if config.mid_grid not in (None, config.init_grid):
        raise InputError(
            f"Hugging Face's YOLOS has one image_size for both position grids, but this model's are "
            f"{config.init_grid} (model.init_pe_size) and {config.mid_grid} (model.mid_pe_size) patches; "
            "it cannot be exported."
        )
    bad = sorted(i for i in label_names or () if not 0 <= i < config.num_classes)
    if bad:
        raise InputError(f"label ids {bad} are outside the model's classes 0..{config.num_classes - 1}.")
    names = {i: (label_names or {}).get(i, NO_NAME if label_names else f"LABEL_{i}") for i in range(config.num_classes)}
    patch, size = config.patch_size, config.init_pe_size
    rows, columns = config.init_grid
    if config.mid_grid is not None and size[0] * size[1] // patch**2 != rows * columns:
        # transformers counts the mid grid's patches by area, so only whole patches mean the same there
        size = rows * patch, columns * patch
    return {
        "architectures": ["YolosForObjectDetection"],
        "model_type": "yolos",
        "dtype": "float32",
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "layer_norm_eps": config.layer_norm_eps,
        "image_size": list(size),
        "patch_size": patch,
        "num_detection_tokens": config.det_tokens,
        "use_mid_position_embeddings": config.mid_grid is not None,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **_FIXED,
        "id2label": {str(i): name for i, name in names.items()},
        "label2id": {name: i for i, name in names.items()},
    }


def export_huggingface(
    params: Mapping, config: YolosConfig, label_names: Mapping[int, str] | None, out_dir: str | Path
) -> None:
    """Writes a folder that `YolosForObjectDetection.from_pretrained` loads.

    Args:
      params: our parameters.
      config: their model; both position grids must be equal.
      label_names: names by class id, or None.
      out_dir: a new or empty folder.

    Raises:
      InputError: the folder is in use or cannot be written, or the model cannot be exported.
    """
    path = Path(out_dir)
    values = write_config(config, label_names)
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} exists and is not an empty folder; choose another one to write to.")
        state = to_huggingface(params, config)
        path.mkdir(parents=True, exist_ok=True)
        # transformers refuses files without this mark of the tensors' layout
        save_file(state, path / "model.safetensors", metadata={"format": "pt"})
        (path / "config.json").write_text(json.dumps(values, indent=2) + "\n")
        # safetensors may leave its file readable to its owner only
        (path / "model.safetensors").chmod((path / "config.json").stat().st_mode)
    except OSError as error:
        raise InputError(f"the Hugging Face folder {path} could not be written ({error}).") from error


def _label_names(values: Mapping[str, Any], what: str) -> dict[int, str]:
    """`id2label` with integer ids, which must be 0..K-1; transformers omits it for its two default labels."""
    given = values.get("id2label")
    try:
        if given is None:
            return {i: f"LABEL_{i}" for i in range(int(values["num_labels"]))}
        names = {int(i): str(name) for i, name in given.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{what} has an id2label that does not map numbers to names ({error}).") from error
    if sorted(names) != list(range(len(names))) or not names:
        raise InputError(f"{what} has an id2label whose {len(names)} ids are not 0..{len(names) - 1}.")
    return dict(sorted(names.items()))


def _pair(value: Any) -> tuple[int, int]:
    """An int, or two of them."""
    if isinstance(value, int):
        return value, value
    first, second = value
    return int(first), int(second)


def _ratio(width: int, inner: int) -> float:
    """The `mlp_ratio` for which `int(width * ratio)` is `inner`, whatever the quotient rounds to."""
    ratio = inner / width
    return ratio if int(width * ratio) == inner else float(np.nextafter(ratio, np.inf))
