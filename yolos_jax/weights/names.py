"""Names and shapes of a YOLOS state dict, the reference's and Hugging Face's."""

import math
from collections.abc import Container, Mapping, Sequence

import numpy as np

from yolos_jax.errors import InputError
from yolos_jax.model.config import YolosConfig
from yolos_jax.weights.limits import plain
from yolos_jax.weights.report import compact

# What the mid-layer embeddings are called in published files and in those that `save_pretrained` writes; the model's
# own state dict (transformers 5) says "interpolation".
_OLD_MID = "vit.encoder.mid_position_embeddings"
_NEW_MID = "vit.encoder.interpolation.mid_position_embeddings"
# Parts of the reference's names and of Hugging Face's, replaced in this order; "{}" stands for query, key and value,
# which Hugging Face stores apart and the reference stacks in this order along axis 0.
_PARTS = (
    ("backbone.blocks.", "vit.encoder.layer."),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".attn.qkv.", ".attention.attention.{}."),
    (".attn.proj.", ".attention.output.dense."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
    ("backbone.mid_pos_embed", _NEW_MID),
    ("backbone.pos_embed", "vit.embeddings.position_embeddings"),
    ("backbone.cls_token", "vit.embeddings.cls_token"),
    ("backbone.det_token", "vit.embeddings.detection_tokens"),
    ("backbone.patch_embed.proj.", "vit.embeddings.patch_embeddings.projection."),
    ("backbone.norm.", "vit.layernorm."),
    ("class_embed.", "class_labels_classifier."),
    ("bbox_embed.", "bbox_predictor."),
)
_MOST_NAMES = 40  # names of one kind in an error sentence; all of a model's blocks together make 12


def huggingface_names(name: str) -> tuple[str, ...]:
    """The Hugging Face name of a reference name; three (query, key, value) for a joint qkv."""
    for ours, theirs in _PARTS:
        name = name.replace(ours, theirs)
    return tuple(name.format(part) for part in ("query", "key", "value")) if "{}" in name else (name,)


def current_huggingface_name(name: str, names: Container[str]) -> str:
    """The name in a transformers 5 state dict of a name found in a Hugging Face file that holds `names`."""
    return _NEW_MID if name == _OLD_MID and _NEW_MID not in names else name


def join(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Query, key and value as one array; a single part as it is."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def reference_shapes(config: YolosConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the reference's state dict."""
    width, patch, others = config.width, config.patch_size, 1 + config.det_tokens
    out: dict[str, tuple[int, ...]] = {
        "backbone.cls_token": (1, 1, width),
        "backbone.pos_embed": (1, math.prod(config.init_grid) + others, width),
        "backbone.det_token": (1, config.det_tokens, width),
    }
    if config.mid_grid is not None:
        out["backbone.mid_pos_embed"] = (config.depth - 1, 1, math.prod(config.mid_grid) + others, width)
    block: dict[str, tuple[int, ...]] = {
        "norm1": (width,),
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "norm2": (width,),
        "mlp.fc1": (config.mlp_width, width),
        "mlp.fc2": (width, config.mlp_width),
    }
    weights: dict[str, tuple[int, ...]] = {"backbone.patch_embed.proj": (width, 3, patch, patch)}
    weights |= {f"backbone.blocks.{i}.{name}": shape for i in range(config.depth) for name, shape in block.items()}
    weights["backbone.norm"] = (width,)
    for head, outputs in (("class_embed", config.num_classes + 1), ("bbox_embed", 4)):
        weights |= {f"{head}.layers.{i}": (size, width) for i, size in enumerate((width, width, outputs))}
    for name, shape in weights.items():
        out |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return out


def huggingface_shapes(config: YolosConfig) -> dict[str, tuple[int, ...]]:
    """The same for Hugging Face's state dict."""
    out = {}
    for name, (first, *rest) in reference_shapes(config).items():
        names = huggingface_names(name)
        out.update({theirs: (first // len(names), *rest) for theirs in names})
    return out


def check(state: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Raises an `InputError` that names every tensor of `what` that is missing, unexpected or not of its shape."""
    wrong = [name for name in expected if name in state and tuple(state[name].shape) != expected[name]]
    parts = [f"{name} has shape {list(state[name].shape)}, wanted {list(expected[name])}" for name in wrong[:6]]
    parts += [f"and {len(wrong) - 6} more of a wrong shape"] if len(wrong) > 6 else []
    for kind, there, elsewhere in (("missing", expected, state), ("unexpected", state, expected)):
        if names := [name for name in there if name not in elsewhere]:
            listed = [plain(name) for name in compact(names)]
            listed[_MOST_NAMES:] = ["..."] if len(listed) > _MOST_NAMES else []
            parts.append(f"{len(names)} {kind} ({', '.join(listed)})")
    if parts:
        raise InputError(
            f"the weights of {what} do not fit the model: {'; '.join(parts)}. "
            "Choose the --variant or --config that they were made for."
        )
