"""Converts tensors of transformers' YOLOS, ViT and DeiT to our parameters and back."""

from collections.abc import Mapping

import numpy as np

from yolos_jax.model.classifier_config import ClassifierConfig
from yolos_jax.model.config import YolosConfig
from yolos_jax.weights import tensor_names
from yolos_jax.weights.reference import from_reference, to_reference, to_timm

CLASS_HEAD = "class_labels_classifier.layers.2.weight"
# The mid-layer embeddings in the model's own state dict (transformers 5), and in files that `save_pretrained` writes.
_MID = "vit.encoder.interpolation.mid_position_embeddings"
_PUBLISHED_MID = "vit.encoder.mid_position_embeddings"


def from_huggingface(state: Mapping[str, np.ndarray], config: YolosConfig, what: str = "the state dict") -> dict:
    """Our parameters from Hugging Face's tensors, with the names of any version of transformers.

    Args:
      state: float32 arrays of `YolosForObjectDetection` by name.
      what: its name in errors.

    Raises:
      InputError: tensors are missing, unexpected, not finite, or do not match the config's shapes.
    """
    if _MID not in state:
        state = {_MID if name == _PUBLISHED_MID else name: array for name, array in state.items()}
    tensor_names.check_shapes(state, tensor_names.huggingface_shapes(config), what)
    reference = {}
    for name in tensor_names.reference_shapes(config):
        reference[name] = tensor_names.stacked([state[theirs] for theirs in tensor_names.huggingface_names(name)])
    return from_reference(reference, config, what)


def to_huggingface(params: Mapping, config: YolosConfig) -> dict[str, np.ndarray]:
    """The state dict (numpy float32) of transformers' `YolosForObjectDetection`; undoes `from_huggingface`."""
    return _renamed(to_reference(params, config))


def to_transformers_vit(params: Mapping, config: ClassifierConfig) -> dict[str, np.ndarray]:
    """The state dict of transformers' `ViTForImageClassification`, or `DeiTForImageClassificationWithTeacher`."""
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
    """Tensors with transformers' names; query, key and value are split."""
    out: dict[str, np.ndarray] = {}
    for name, array in state.items():
        theirs = tensor_names.huggingface_names(name)
        out.update(zip(theirs, np.split(array, len(theirs)), strict=True))
    return out
