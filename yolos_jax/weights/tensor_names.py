"""Names and shapes of the tensors in state dicts of the reference, timm and transformers.

The reference uses timm's names, with the prefix `backbone.`, for the tensors of its ViT.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from yolos_jax.errors import InputError
from yolos_jax.model.config import NetworkConfig, YolosConfig
from yolos_jax.weights.limits import plain
from yolos_jax.weights.report import compact

Shapes = dict[str, tuple[int, ...]]

# Fragments of timm and transformers names, replaced in this order in both directions. timm stacks query, key and value
# along axis 0 in a tensor `qkv`; `q`, `k` and `v` are its thirds, which are separate tensors in transformers.
_FRAGMENTS = (
    ("blocks.", "encoder.layer."),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".attn.q.", ".attention.attention.query."),
    (".attn.k.", ".attention.attention.key."),
    (".attn.v.", ".attention.attention.value."),
    (".attn.proj.", ".attention.output.dense."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
    ("mid_pos_embed", "encoder.interpolation.mid_position_embeddings"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("cls_token", "embeddings.cls_token"),
    ("dist_token", "embeddings.distillation_token"),
    ("det_token", "embeddings.detection_tokens"),
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("norm.", "layernorm."),
)
# Names in a state dict in memory (transformers 5) that differ from the files written by `save_pretrained`.
_FRAGMENTS_IN_MEMORY = (
    ("blocks.", "layers."),
    (".attn.q.", ".attention.q_proj."),
    (".attn.k.", ".attention.k_proj."),
    (".attn.v.", ".attention.v_proj."),
    (".attn.proj.", ".attention.o_proj."),
)
# Prefixes of the ViT and the heads, in the reference and in transformers' YOLOS.
_FRAGMENTS_OF_YOLOS = (
    ("backbone.", "vit."),
    ("class_embed.", "class_labels_classifier."),
    ("bbox_embed.", "bbox_predictor."),
)
_MOST_NAMES = 40  # maximum number of names in a message; merging block numbers leaves 12 names for all blocks


def huggingface_names(name: str) -> tuple[str, ...]:
    """Returns the transformers names of a reference or timm tensor; three (query, key, value) for a stacked qkv."""
    names = [name]
    if ".qkv." in name:
        names = [name.replace(".qkv.", f".{part}.") for part in "qkv"]
    for ours, theirs in _FRAGMENTS + _FRAGMENTS_OF_YOLOS:
        names = [name.replace(ours, theirs) for name in names]
    return tuple(names)


def timm_name(name: str) -> str:
    """Returns the timm name of a tensor in transformers' ViT (without prefix); query, key and value stay separate."""
    for timm, theirs in _FRAGMENTS_IN_MEMORY + _FRAGMENTS:
        name = name.replace(theirs, timm)
    return name


def stacked(tensors: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks query, key and value in one array; returns a single tensor unchanged."""
    return tensors[0] if len(tensors) == 1 else np.concatenate(tensors)


def reference_shapes(config: YolosConfig) -> Shapes:
    """Returns the names and shapes of the tensors in the reference's state dict."""
    width, others = config.width, 1 + config.det_tokens
    out: Shapes = {"backbone.pos_embed": (1, math.prod(config.init_grid) + others, width)}
    out["backbone.det_token"] = (1, config.det_tokens, width)
    if config.mid_grid is not None:
        out["backbone.mid_pos_embed"] = (config.depth - 1, 1, math.prod(config.mid_grid) + others, width)
    out |= {f"backbone.{name}": shape for name, shape in vit_shapes(config).items()}
    for head, outputs in (("class_embed", config.num_classes + 1), ("bbox_embed", 4)):
        for i, rows in enumerate((width, width, outputs)):
            out |= _weight_and_bias(f"{head}.layers.{i}", (rows, width))
    return out


def huggingface_shapes(config: YolosConfig) -> Shapes:
    """Returns the names and shapes of the tensors in the state dict of transformers' `YolosForObjectDetection`."""
    out = {}
    for name, (rows, *rest) in reference_shapes(config).items():
        names = huggingface_names(name)
        out.update({theirs: (rows // len(names), *rest) for theirs in names})
    return out


def vit_shapes(config: NetworkConfig) -> Shapes:
    """Returns the timm names and shapes of the tensors that all detectors and classifiers have, except pos_embed."""
    width, patch = config.width, config.patch_size
    out: Shapes = {"cls_token": (1, 1, width)}
    out |= _weight_and_bias("patch_embed.proj", (width, 3, patch, patch))
    for i in range(config.depth):
        out |= _weight_and_bias(f"blocks.{i}.norm1", (width,))
        out |= _weight_and_bias(f"blocks.{i}.attn.qkv", (3 * width, width))
        out |= _weight_and_bias(f"blocks.{i}.attn.proj", (width, width))
        out |= _weight_and_bias(f"blocks.{i}.norm2", (width,))
        out |= _weight_and_bias(f"blocks.{i}.mlp.fc1", (config.mlp_width, width))
        out |= _weight_and_bias(f"blocks.{i}.mlp.fc2", (width, config.mlp_width))
    return out | _weight_and_bias("norm", (width,))


def _weight_and_bias(layer: str, shape: tuple[int, ...]) -> Shapes:
    return {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}


def check_shapes(state: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Raises `InputError` if tensors are missing, unexpected or of the wrong shape; the message names them."""
    wrong = [name for name in expected if name in state and tuple(state[name].shape) != expected[name]]
    troubles = [f"{name} has shape {list(state[name].shape)}, expected {list(expected[name])}" for name in wrong[:6]]
    if len(wrong) > 6:
        troubles.append(f"and {len(wrong) - 6} more with a wrong shape")
    for kind, there, elsewhere in (("missing", expected, state), ("unexpected", state, expected)):
        names = [name for name in there if name not in elsewhere]
        if names:
            listed = [plain(name) for name in compact(names)]
            listed[_MOST_NAMES:] = ["..."] if len(listed) > _MOST_NAMES else []
            troubles.append(f"{len(names)} {kind} ({', '.join(listed)})")
    if troubles:
        raise InputError(
            f"the tensors of {what} do not match the model: {'; '.join(troubles)}. "
            "Choose a matching --config, or use other weights."
        )
