"""Converts YOLOS weights between transformers and our parameters, and our classifiers to transformers' ViT or DeiT."""

from collections.abc import Mapping

import numpy as np

from yolos_jax.model.classifier_config import ClassifierConfig
from yolos_jax.model.config import YolosConfig
from yolos_jax.weights import tensor_names
from yolos_jax.weights.reference import from_reference, to_reference, to_timm

CLASS_HEAD = "class_labels_classifier.layers.2.weight"
# Mid-layer position embeddings in a model's state dict (transformers 5), and in files written by `save_pretrained`.
_MID = "vit.encoder.interpolation.mid_position_embeddings"
_PUBLISHED_MID = "vit.encoder.mid_position_embeddings"


def from_huggingface(state: Mapping[str, np.ndarray], config: YolosConfig, what: str = "the state dict") -> dict:
    """Converts a Hugging Face state dict, with the tensor names of any transformers version, to our parameters.

    Args:
      state: the state dict of `YolosForObjectDetection`, as float32 arrays.
      what: name of the state dict in error messages.

    Raises:
      InputError: tensors are missing, unexpected or of the wrong shape for the config.
    """
    if _MID not in state:
        state = {_MID if name == _PUBLISHED_MID else name: array for name, array in state.items()}
    tensor_names.check_shapes(state, tensor_names.huggingface_shapes(config), what)
    reference = {}
    for name in tensor_names.reference_shapes(config):
        reference[name] = tensor_names.stacked([state[theirs] for theirs in tensor_names.huggingface_names(name)])
    return from_reference(reference, config, what)


def to_huggingface(params: Mapping, config: YolosConfig) -> dict[str, np.ndarray]:
    """Returns the state dict of transformers' `YolosForObjectDetection`; the inverse of `from_huggingface`."""
    return _renamed(to_reference(params, config))


def to_transformers_vit(params: Mapping, config: ClassifierConfig) -> dict[str, np.ndarray]:
    """Returns the weights of `ViTForImageClassification` or, if distilled, `DeiTForImageClassificationWithTeacher`."""
    state = to_timm(params, config)
    model, heads = "vit", {"head": "classifier"}
    if config.distilled:
        model, heads = "deit", {"head": "cls_classifier", "head_dist": "distillation_classifier"}
    out = {}
    for timm, theirs in heads.items():
        for kind in ("weight", "bias"):
            out[f"{theirs}.{kind}"] = state.pop(f"{timm}.{kind}")
    return out | {f"{model}.{name}": array for name, array in _renamed(state).items()}


def _renamed(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames tensors to their transformers names, and splits query, key and value."""
    out: dict[str, np.ndarray] = {}
    for name, array in state.items():
        theirs = tensor_names.huggingface_names(name)
        out.update(zip(theirs, np.split(array, len(theirs)), strict=True))
    return out
