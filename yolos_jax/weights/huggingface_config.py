"""Reads and writes `config.json` for transformers' YOLOS, and writes it for transformers' ViT and DeiT."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from yolos_jax.datasets.category_names import distinct
from yolos_jax.errors import InputError, shown
from yolos_jax.model.classifier_config import ClassifierConfig
from yolos_jax.model.config import NetworkConfig, YolosConfig
from yolos_jax.weights.limits import whole_number

CATEGORY_IDS = "category_ids"  # a key that only yolos-jax uses in config.json; transformers keeps unknown keys
PLACEHOLDER = "N/A"  # name of unused category ids in Hugging Face's COCO models
# Integer settings, keyed by transformers' name: our name, transformers' default, and the largest accepted value, which
# is far above that of any real model but small enough to compute shapes with.
_NUMBERS_OF_A_VIT = {
    "hidden_size": ("width", 768, 2**16),
    "num_hidden_layers": ("depth", 12, 2**10),
    "num_attention_heads": ("heads", 12, 2**10),
    "intermediate_size": ("mlp_width", 3072, 2**18),
}
_NUMBERS = _NUMBERS_OF_A_VIT | {"num_detection_tokens": ("det_tokens", 100, 2**16)}
_MOST_LABELS, _MOST_PIXELS = 2**17, 2**14
# Settings with only one supported value, which is also transformers' default.
_FIXED = {"hidden_act": "gelu", "qkv_bias": True, "num_channels": 3}


def read_config(values: Mapping[str, Any], what: str) -> tuple[YolosConfig, dict[int, str]]:
    """Returns the settings in a YOLOS `config.json`, and its label names keyed by id, without the placeholder "N/A".

    Raises `InputError` for an invalid or unsupported setting; the message names it.
    """
    for name, only in _FIXED.items():
        value = values.get(name, only)
        if type(value) is not type(only) or value != only:
            raise InputError(f"{what} sets {name} to {shown(value)}; only {only!r} is supported.")
    labels = _label_names(values, what)
    try:
        size = _pair(values.get("image_size", [512, 864]), "image_size")
        patch, other = _pair(values.get("patch_size", 16), "patch_size")
        if patch != other:
            raise ValueError("patch_size is not square")
        mid = values.get("use_mid_position_embeddings", True)
        if type(mid) is not bool:
            raise ValueError(f"use_mid_position_embeddings is {shown(mid)}; it must be true or false")
        epsilon = values.get("layer_norm_eps", 1e-12)
        if type(epsilon) not in (int, float) or not 0 <= epsilon < 1:
            raise ValueError(f"layer_norm_eps is {shown(epsilon)}; it must be a number between 0 and 1")
        numbers: dict[str, Any] = {}
        for name, (ours, default, most) in _NUMBERS.items():
            numbers[ours] = whole_number(values.get(name, default), name, 1, most)
        inner = numbers.pop("mlp_width")
        config = YolosConfig(
            mlp_ratio=ratio_of(numbers["width"], inner),
            patch_size=patch,
            num_classes=len(labels),
            init_pe_size=size,
            mid_pe_size=size if mid else None,
            layer_norm_eps=float(epsilon),
            **numbers,
        )
    except (InputError, ValueError) as error:
        raise InputError(f"{what} is not a usable YOLOS configuration ({str(error).rstrip('.')}).") from error
    return config, {i: name for i, name in labels.items() if name != PLACEHOLDER}


def read_category_ids(values: Mapping[str, Any], classes: int, what: str) -> tuple[int, ...] | None:
    """Returns the data set's category id for each label in a `config.json`; None if the ids equal the labels."""
    ids = values.get(CATEGORY_IDS)
    if ids is None:
        return None
    good = isinstance(ids, list) and all(type(i) is int and abs(i) < 2**63 for i in ids)
    if not good or len(ids) != classes or len(set(ids)) != classes:
        raise InputError(f"{what} has invalid {CATEGORY_IDS}; they must be {classes} distinct whole numbers.")
    return tuple(ids)


def write_config(config: YolosConfig, label_names: Mapping[int, str] | None) -> dict[str, Any]:
    """Returns the `config.json` of a model. Ids without a name get the name "N/A", or "LABEL_i" if no id has a name.

    Raises:
      InputError: transformers does not support the model (two different position grids), or a label id is out of range.
    """
    if config.mid_grid not in (None, config.init_grid):
        raise InputError(
            f"Hugging Face's YOLOS has one image_size for both position grids, but this model has {config.init_grid} "
            f"(model.init_pe_size) and {config.mid_grid} (model.mid_pe_size) patches, so it cannot be exported."
        )
    bad = sorted(i for i in label_names or () if not 0 <= i < config.num_classes)
    if bad:
        raise InputError(f"label ids {bad} are outside the model's classes 0..{config.num_classes - 1}.")
    names = label_names or {}
    labels = [names.get(i, PLACEHOLDER if names else f"LABEL_{i}") for i in range(config.num_classes)]
    patch, size = config.patch_size, config.init_pe_size
    rows, columns = config.init_grid
    if config.mid_grid is not None and size[0] * size[1] // patch**2 != rows * columns:
        # transformers computes the number of patches from the area, so both sides must be multiples of the patch size
        size = rows * patch, columns * patch
    return {
        "architectures": ["YolosForObjectDetection"],
        "model_type": "yolos",
        **_common_settings(config, labels),
        "num_detection_tokens": config.det_tokens,
        "image_size": list(size),
        "use_mid_position_embeddings": config.mid_grid is not None,
    }


def write_classifier_config(config: ClassifierConfig, label_names: Mapping[int, str]) -> dict[str, Any]:
    """Returns the `config.json` of a classifier; a class without a name gets the name "LABEL_i"."""
    architecture = "DeiTForImageClassificationWithTeacher" if config.distilled else "ViTForImageClassification"
    return {
        "architectures": [architecture],
        "model_type": "deit" if config.distilled else "vit",
        **_common_settings(config, [label_names.get(i, f"LABEL_{i}") for i in range(config.num_classes)]),
        "image_size": config.image_size,
    }


def _common_settings(config: NetworkConfig, labels: list[str]) -> dict[str, Any]:
    """Returns the settings shared by detectors and classifiers; duplicate class names are made unique."""
    labels = list(distinct(dict(enumerate(labels))).values())
    return {
        "dtype": "float32",
        **{name: getattr(config, ours) for name, (ours, _, _) in _NUMBERS_OF_A_VIT.items()},
        "layer_norm_eps": config.layer_norm_eps,
        "patch_size": config.patch_size,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **_FIXED,
        "id2label": {str(i): name for i, name in enumerate(labels)},
        "label2id": {name: i for i, name in enumerate(labels)},
    }


def _label_names(values: Mapping[str, Any], what: str) -> dict[int, str]:
    """Returns `id2label` with integer ids, which must be 0..K-1; transformers omits it for two default names."""
    given = values.get("id2label")
    try:
        if given is None:
            count = whole_number(values.get("num_labels", 2), "num_labels", 1, _MOST_LABELS)
            return {i: f"LABEL_{i}" for i in range(count)}
        whole_number(len(given), "the number of labels", 1, _MOST_LABELS)
        labels = {int(i): str(name) for i, name in given.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{what} has an id2label that does not map numbers to names ({error}).") from error
    # transformers creates one output per name regardless of the ids, so if the ids are 1..K, id K has no output.
    if sorted(labels) == list(range(1, len(given) + 1)):
        raise InputError(
            f"{what} has an id2label with ids 1..{len(labels)}, but a model with {len(labels)} labels has the outputs "
            f'0..{len(labels) - 1} and "no object": output 0 has no name, and the name of id '
            f"{len(labels)} has no output. In a copy of the config.json, number the names from 0, in the order "
            "used in training."
        )
    if sorted(labels) != list(range(len(given))):
        raise InputError(f"{what} has an id2label whose {len(given)} ids are not 0..{len(given) - 1}.")
    return dict(sorted(labels.items()))


def _pair(value: Any, name: str) -> tuple[int, int]:
    """Returns a pair of integers, given a single integer or a list of two."""
    pair = value if isinstance(value, list) else [value, value]
    if len(pair) != 2:
        raise ValueError(f"{name} is {shown(value)}; it must be one or two whole numbers")
    first, second = (whole_number(side, name, 1, _MOST_PIXELS) for side in pair)
    return first, second


def ratio_of(width: int, inner: int) -> float:
    """Returns the `mlp_ratio` for which `int(width * ratio)` is exactly `inner`."""
    ratio = inner / width
    return ratio if int(width * ratio) == inner else float(np.nextafter(ratio, np.inf))
