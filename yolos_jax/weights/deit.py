"""Initialises a detector from an image classifier (DeiT, timm) or a self-supervised ViT (DINO, MoCo v3, MAE).

The backbone is used unchanged, except that its position embeddings are resized to the detector's grid. Parts that the
source lacks (DET tokens, mid-layer position embeddings, heads) are initialised from a seed.
"""

import dataclasses
import math
import re

import jax.numpy as jnp
import numpy as np

from yolos_jax.errors import InputError, first_few
from yolos_jax.model.config import VARIANTS, YolosConfig
from yolos_jax.model.position import resize_to_tokens
from yolos_jax.model.yolos import build
from yolos_jax.weights.backbone import Backbone
from yolos_jax.weights.limits import plain
from yolos_jax.weights.reference import from_reference, to_reference
from yolos_jax.weights.report import Report, compact
from yolos_jax.weights.tensor_names import check_shapes, vit_shapes

_NORM = ("norm.weight", "norm.bias")
# ViT parts that YOLOS does not support, keyed by regular expressions that match their tensor names.
_OTHER_PARTS = {
    r"\.ls[12]\.|\.layer_scale[12]|\.gamma_[12]$": "layer scale",
    r"(^|\.)(reg_token|register_tokens|storage_tokens)$": "register tokens",
    r"\.mlp\.(w1|w2|w3|w12|fc1_[gx]|weights_(in|out)|gate_proj|up_proj)\.": "a gated MLP such as SwiGLU",
    r"^(norm_pre|pre_layrnorm)\.": "a norm before the first block",
    r"\.attn\.([qk]_norm|norm|inner_attn_ln)\.|\.mlp\.norm\.": "norms inside its attention or MLP layers",
    r"rel_pos|relative_position|(^|\.)rope|freqs": "relative or rotary position embeddings",
    r"^attn_pool\.": "attention pooling",
}


def from_deit(found: Backbone, config: YolosConfig, seed: int = 0) -> tuple[dict, Report]:
    """Returns our parameters (nested dict of numpy float32 arrays) with the backbone of a ViT, and a report.

    A distilled classifier has two position embeddings before those of the patches. As in the reference, the first one
    is dropped, so CLS combines DeiT's CLS token with the position embedding of the distillation token. Parts that the
    ViT lacks are initialised from `seed`. Raises `InputError` for missing, unexpected or wrongly shaped tensors.
    """
    _check_backbone(found, config)
    row, side = _position_layout(found)
    fresh = to_reference(build(config, seed)[1], config)
    theirs, ours = found.state["pos_embed"][0], fresh["backbone.pos_embed"][0]
    rows, columns = config.init_grid
    ours[0] = theirs[row]
    ours[1 : 1 + rows * columns] = _resize(theirs[row + 1 :].reshape(side, side, config.width), config.init_grid)
    given = {f"backbone.{name}": array for name, array in found.state.items()}
    del given["backbone.pos_embed"]
    resized = "kept" if (rows, columns) == (side, side) else f"resized to {rows}x{columns}"
    note = (
        f"pos_embed: row {row} is the position of CLS; the {side}x{side} grid is {resized}; the rows of the "
        f"{config.det_tokens} DET tokens are initialised."
    )
    initialised = tuple(name for name in fresh if name not in given and name != "backbone.pos_embed")
    report = dataclasses.replace(found.report, initialised=initialised, notes=(*found.report.notes, note))
    return from_reference(fresh | given, config, report.path), report


def config_of_deit(found: Backbone) -> YolosConfig:
    """Returns the variant with the same width and depth as a ViT, with COCO's number of classes."""
    for config in VARIANTS.values():
        if (config.width, config.depth) == (found.width, found.depth):
            return config
    known = "; ".join(f"{name}: width {config.width}, {config.depth} blocks" for name, config in VARIANTS.items())
    raise InputError(
        f"{found.report.path} has width {found.width} and {found.depth} blocks, which do not match any variant "
        f"({known}); use a --config that sets the architecture."
    )


def _check_backbone(found: Backbone, config: YolosConfig) -> None:
    """Checks tensor names and shapes; for the position embeddings, only the width must match."""
    state, what = found.state, found.report.path
    refuse_other_parts(found)
    if found.depth != config.depth:
        raise InputError(
            f"{what} has {found.depth} blocks of width {found.width}, but the model has {config.depth} of width "
            f"{config.width}; choose a matching --config."
        )
    patch, wanted = state["patch_embed.proj.weight"].shape, config.patch_size
    if len(patch) == 4 and patch[2:] != (wanted, wanted):
        raise InputError(
            f"{what} has patches of {patch[2]}x{patch[3]} pixels, but the model has {wanted}x{wanted} "
            f"(patch_embed.proj.weight has shape {list(patch)}, expected {[*patch[:2], wanted, wanted]}); use weights "
            f"with patches of {wanted} pixels."
        )
    positions = state.get("pos_embed")
    rows = 1 + math.prod(config.init_grid)
    if positions is not None and positions.ndim == 3:  # any number of positions can be resized
        rows = positions.shape[1]
    expected = {"pos_embed": (1, rows, config.width)} | vit_shapes(config)
    if not any(name in state for name in _NORM):
        for name in _NORM:
            del expected[name]
    check_shapes(state, expected, what)


def refuse_other_parts(found: Backbone) -> None:
    """Raises `InputError` for a ViT with unsupported parts or without required ones; the message names them."""
    state, parts = found.state, []
    for pattern, part in _OTHER_PARTS.items():
        names = [name for name in state if re.search(pattern, name)]
        if names:
            parts.append(f"{part} ({first_few([plain(name) for name in compact(names)])})")
    inner, outer = (state.get(f"blocks.0.mlp.{layer}.weight") for layer in ("fc1", "fc2"))
    if inner is not None and outer is not None and inner.shape[0] == 2 * outer.shape[-1]:
        parts.append("a gated MLP such as SwiGLU (mlp.fc1 has twice as many outputs as mlp.fc2 has inputs)")
    if "cls_token" not in state:
        parts.append("no class token (cls_token)")
    if "blocks.0.attn.qkv.weight" in state and "blocks.0.attn.qkv.bias" not in state:
        parts.append("no biases for queries, keys and values (attn.qkv.bias)")
    if parts:
        plain_ones = "MoCo v3, MAE, or the original DeiT or DINO"
        raise InputError(
            f"{found.report.path} is not a plain ViT, which YOLOS requires: it has {' and '.join(parts)}; start from a "
            f"plain ViT, such as {plain_ones}."
        )


def _position_layout(found: Backbone) -> tuple[int, int]:
    """Returns the row of the CLS position, and the side length of the patch grid."""
    shape = found.state["pos_embed"].shape
    for row in (1,) if found.distilled else (0, 1):
        patches = shape[1] - row - 1
        side = math.isqrt(max(patches, 0))
        if side > 0 and side**2 == patches:
            return row, side
    rows = "the class and distillation rows" if found.distilled else "the class row"
    raise InputError(
        f"pos_embed of {found.report.path} has shape {list(shape)}; without {rows}, the patch grid is not square."
    )


def _resize(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes `[H, W, D]` to `[h * w, D]` with torch's bicubic interpolation; values are kept if the sizes match."""
    if grid.shape[:2] == size:
        return grid.reshape(-1, grid.shape[-1])
    sizes = jnp.array([size], jnp.int32)
    return np.asarray(resize_to_tokens(jnp.asarray(grid), sizes, math.prod(size), max(size))[0])
