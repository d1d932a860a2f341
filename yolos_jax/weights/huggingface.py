"""Hugging Face YOLOS folders (`config.json` + `model.safetensors`) <-> our parameters."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from yolos_jax.errors import InputError, shown
from yolos_jax.model.config import YolosConfig
from yolos_jax.weights import names
from yolos_jax.weights.limits import whole_number
from yolos_jax.weights.reference import from_reference, to_reference

CLASSIFIER = "class_labels_classifier.layers.2.weight"
CATEGORY_IDS = "category_ids"  # our own entry of a config.json; transformers keeps what it does not know
NO_NAME = "N/A"  # what Hugging Face's COCO models call the ids that COCO does not use
# Whole numbers by transformers' name: our name, transformers' default for a config.json that leaves it out, and the
# largest that it may be, which is far beyond any model and small enough to compute its shapes with.
_NUMBERS = {
    "hidden_size": ("width", 768, 2**16),
    "num_hidden_layers": ("depth", 12, 2**10),
    "num_attention_heads": ("heads", 12, 2**10),
    "intermediate_size": ("mlp_width", 3072, 2**18),
    "num_detection_tokens": ("det_tokens", 100, 2**16),
}
_MOST_LABELS, _MOST_PIXELS = 2**17, 2**14
# Settings that we know one value of only, which is transformers' default, too.
_FIXED = {"hidden_act": "gelu", "qkv_bias": True, "num_channels": 3}


def from_huggingface(state: Mapping[str, np.ndarray], config: YolosConfig, what: str = "the state dict") -> dict:
    """Our parameters from Hugging Face's tensors (names of any transformers version); see `from_reference`."""
    state = {names.current_huggingface_name(name, state): array for name, array in state.items()}
    names.check(state, names.huggingface_shapes(config), what)
    theirs = {name: names.huggingface_names(name) for name in names.reference_shapes(config)}
    return from_reference({name: names.join([state[n] for n in parts]) for name, parts in theirs.items()}, config, what)


def to_huggingface(params: Mapping, config: YolosConfig) -> dict[str, np.ndarray]:
    """The state dict (numpy float32) of transformers' `YolosForObjectDetection`; undoes `from_huggingface`."""
    out: dict[str, np.ndarray] = {}
    for name, array in to_reference(params, config).items():
        theirs = names.huggingface_names(name)
        out.update(zip(theirs, np.split(array, len(theirs)), strict=True))
    return out


def read_config(values: Mapping[str, Any], what: str) -> tuple[YolosConfig, dict[int, str]]:
    """Settings, and names by class id without the placeholder "N/A", of a YOLOS `config.json`.

    An `InputError` names a setting that is unusable or asks for something that this model does not do.
    """
    for name, only in _FIXED.items():
        if type(values.get(name, only)) is not type(only) or values.get(name, only) != only:
            raise InputError(f"{what} sets {name} to {shown(values[name])}; only {only!r} is supported.")
    labels = _label_names(values, what)
    try:
        size = _pair(values.get("image_size", [512, 864]), "image_size")
        patch, other = _pair(values.get("patch_size", 16), "patch_size")
        if patch != other:
            raise ValueError("patch_size is not square")
        mid = values.get("use_mid_position_embeddings", True)
        if type(mid) is not bool:
            raise ValueError(f"use_mid_position_embeddings is {shown(mid)}; it must be true or false")
        numbers: dict[str, Any] = {
            ours: whole_number(values.get(name, default), name, 1, most)
            for name, (ours, default, most) in _NUMBERS.items()
        }
        inner = numbers.pop("mlp_width")
        config = YolosConfig(
            mlp_ratio=_ratio(numbers["width"], inner),
            patch_size=patch,
            num_classes=len(labels),
            init_pe_size=size,
            mid_pe_size=size if mid else None,
            layer_norm_eps=_epsilon(values.get("layer_norm_eps", 1e-12)),
            **numbers,
        )
    except (InputError, ValueError) as error:
        raise InputError(f"{what} is not a usable YOLOS configuration ({str(error).rstrip('.')}).") from error
    return config, {i: name for i, name in labels.items() if name != NO_NAME}


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
            f"Hugging Face's YOLOS has one image_size for both position grids, but this model's are {config.init_grid} "
            f"(model.init_pe_size) and {config.mid_grid} (model.mid_pe_size) patches; it cannot be exported."
        )
    bad = sorted(i for i in label_names or () if not 0 <= i < config.num_classes)
    if bad:
        raise InputError(f"label ids {bad} are outside the model's classes 0..{config.num_classes - 1}.")
    labels = [(label_names or {}).get(i, NO_NAME if label_names else f"LABEL_{i}") for i in range(config.num_classes)]
    patch, size = config.patch_size, config.init_pe_size
    rows, columns = config.init_grid
    if config.mid_grid is not None and size[0] * size[1] // patch**2 != rows * columns:
        # transformers counts the mid grid's patches by area, so only whole patches mean the same there
        size = rows * patch, columns * patch
    return {
        "architectures": ["YolosForObjectDetection"],
        "model_type": "yolos",
        "dtype": "float32",
        **{name: getattr(config, ours) for name, (ours, _, _) in _NUMBERS.items()},
        "layer_norm_eps": config.layer_norm_eps,
        "image_size": list(size),
        "patch_size": patch,
        "use_mid_position_embeddings": config.mid_grid is not None,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **_FIXED,
        "id2label": {str(i): name for i, name in enumerate(labels)},
        "label2id": {name: i for i, name in enumerate(labels)},
    }


def _label_names(values: Mapping[str, Any], what: str) -> dict[int, str]:
    """`id2label` with integer ids, which must be 0..K-1; transformers omits it for its two default labels."""
    given = values.get("id2label")
    try:
        if given is None:
            count = whole_number(values.get("num_labels", 2), "num_labels", 1, _MOST_LABELS)
            return {i: f"LABEL_{i}" for i in range(count)}
        whole_number(len(given), "the number of labels", 1, _MOST_LABELS)
        labels = {int(i): str(name) for i, name in given.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{what} has an id2label that does not map numbers to names ({error}).") from error
    # transformers makes as many outputs as there are names, whatever their ids, so id K of 1..K has none.
    if sorted(labels) == list(range(1, len(given) + 1)):
        raise InputError(
            f"{what} has an id2label of the ids 1..{len(labels)}, but a model of {len(labels)} labels has the outputs "
            f'0..{len(labels) - 1} and "no object": what output 0 means is not written down, and the name of id '
            f"{len(labels)} belongs to no output. Number the names in a copy of the config.json from 0 as the model "
            "was trained."
        )
    if sorted(labels) != list(range(len(given))):
        raise InputError(f"{what} has an id2label whose {len(given)} ids are not 0..{len(given) - 1}.")
    return dict(sorted(labels.items()))


def _pair(value: Any, name: str) -> tuple[int, int]:
    """One whole number, or a list of two."""
    pair = value if isinstance(value, list) else [value, value]
    if len(pair) != 2:
        raise ValueError(f"{name} is {shown(value)}; it must be one or two whole numbers")
    first, second = (whole_number(side, name, 1, _MOST_PIXELS) for side in pair)
    return first, second


def _epsilon(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"layer_norm_eps is {shown(value)}; it must be a number of 0 to 1")
    return float(value)


def _ratio(width: int, inner: int) -> float:
    """The `mlp_ratio` for which `int(width * ratio)` is `inner`, whatever the quotient rounds to."""
    ratio = inner / width
    return ratio if int(width * ratio) == inner else float(np.nextafter(ratio, np.inf))
