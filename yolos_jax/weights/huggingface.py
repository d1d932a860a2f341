"""Hugging Face YOLOS folders (`config.json` + `model.safetensors`) <-> our parameters."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from yolos_jax.errors import InputError
from yolos_jax.model.config import YolosConfig
from yolos_jax.weights.limits import quoted, whole_number
from yolos_jax.weights.names import (
    check,
    current_huggingface_name,
    huggingface_names,
    huggingface_shapes,
    reference_shapes,
)
from yolos_jax.weights.reference import from_reference, to_reference

CLASSIFIER = "class_labels_classifier.layers.2.weight"
CATEGORY_IDS = "category_ids"  # our own entry of a config.json; transformers keeps what it does not know
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
# the largest that each may be: far beyond any model, small enough to compute its shapes with
_MOST = {
    "hidden_size": 2**16,
    "num_hidden_layers": 2**10,
    "num_attention_heads": 2**10,
    "intermediate_size": 2**18,
    "num_detection_tokens": 2**16,
}
_MOST_LABELS, _MOST_PIXELS = 2**17, 2**14
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
    out: dict[str, np.ndarray] = {}
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
        if type(values.get(name, only)) is not type(only) or values.get(name, only) != only:
            raise InputError(f"{what} sets {name} to {quoted(values[name])}; only {only!r} is supported.")
    values = {**_DEFAULTS, **values}
    names = _label_names(values, what)
    try:
        size = _pair(values, "image_size")
        patch = _pair(values, "patch_size")
        if patch[0] != patch[1]:
            raise ValueError("patch_size is not square")
        mid = values["use_mid_position_embeddings"]
        if type(mid) is not bool:
            raise ValueError(f"use_mid_position_embeddings is {quoted(mid)}; it must be true or false")
        number = {name: whole_number(values[name], name, 1, most) for name, most in _MOST.items()}
        config = YolosConfig(
            width=number["hidden_size"],
            depth=number["num_hidden_layers"],
            heads=number["num_attention_heads"],
            mlp_ratio=_ratio(number["hidden_size"], number["intermediate_size"]),
            patch_size=patch[0],
            det_tokens=number["num_detection_tokens"],
            num_classes=len(names),
            init_pe_size=size,
            mid_pe_size=size if mid else None,
            layer_norm_eps=_epsilon(values["layer_norm_eps"]),
        )
    except (InputError, ValueError) as error:
        raise InputError(f"{what} is not a usable YOLOS configuration ({str(error).rstrip('.')}).") from error
    return config, {i: name for i, name in names.items() if name != NO_NAME}


def read_category_ids(values: Mapping[str, Any], classes: int, what: str) -> tuple[int, ...] | None:
    """The data set's category id of every label, which our exports keep in `config.json`; None if they are the same."""
    ids = values.get(CATEGORY_IDS)
    if ids is None:
        return None
    good = isinstance(ids, list) and all(type(i) is int and abs(i) < 2**63 for i in ids)
    if not good or len(ids) != classes or len(set(ids)) != classes:
        raise InputError(f"{what} has {CATEGORY_IDS} that are not {classes} different whole numbers.")
    return tuple(ids)


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


def _label_names(values: Mapping[str, Any], what: str) -> dict[int, str]:
    """`id2label` with integer ids, which must be 0..K-1; transformers omits it for its two default labels."""
    given = values.get("id2label")
    try:
        if given is None:
            return {i: f"LABEL_{i}" for i in range(whole_number(values["num_labels"], "num_labels", 1, _MOST_LABELS))}
        whole_number(len(given), "the number of labels", 1, _MOST_LABELS)
        names = {int(i): str(name) for i, name in given.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{what} has an id2label that does not map numbers to names ({error}).") from error
    if sorted(names) != list(range(len(names))) or len(names) != len(given):
        raise InputError(f"{what} has an id2label whose {len(given)} ids are not 0..{len(given) - 1}.")
    return dict(sorted(names.items()))


def _pair(values: Mapping[str, Any], name: str) -> tuple[int, int]:
    """An int, or two of them."""
    value = values[name]
    pair = value if isinstance(value, list) else [value, value]
    if len(pair) != 2:
        raise ValueError(f"{name} is {quoted(value)}; it must be one or two whole numbers")
    first, second = (whole_number(side, name, 1, _MOST_PIXELS) for side in pair)
    return first, second


def _epsilon(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"layer_norm_eps is {quoted(value)}; it must be a number of 0 to 1")
    return float(value)


def _ratio(width: int, inner: int) -> float:
    """The `mlp_ratio` for which `int(width * ratio)` is `inner`, whatever the quotient rounds to."""
    ratio = inner / width
    return ratio if int(width * ratio) == inner else float(np.nextafter(ratio, np.inf))
