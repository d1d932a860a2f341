"""An image classifier (DeiT, timm) or a self-supervised ViT (DINO, MoCo v3, MAE) as the start of a detector.

The backbone is taken as it is, its position embeddings resized to the detector's grid; whatever it does not have (DET
tokens, mid-layer position embeddings, heads) starts fresh from a seed.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from yolos_jax.errors import InputError
from yolos_jax.model.config import VARIANTS, YolosConfig
from yolos_jax.model.position import resize_to_tokens
from yolos_jax.model.yolos import build
from yolos_jax.weights.backbone import Backbone
from yolos_jax.weights.names import check, reference_shapes
from yolos_jax.weights.reference import from_reference, to_reference
from yolos_jax.weights.report import Report

_NOT_IN_DEIT = ("det_token", "mid_pos_embed")
_NORM = ("norm.weight", "norm.bias")


def from_deit(found: Backbone, config: YolosConfig, seed: int = 0) -> tuple[dict, Report]:
    """Our parameters (nested dict of numpy float32 arrays) with a ViT's backbone; `seed` is of everything it lacks.

    A distilled classifier has two extra rows of position embeddings. As in the reference its first one is dropped:
    CLS keeps DeiT's CLS token but gets the distillation token's position. An `InputError` names tensors that are
    missing, unexpected or misshapen.
    """
    _check_backbone(found, config)
    row, side = _position_layout(found)
    backbone = found.state
    fresh = to_reference(build(config, seed)[1], config)
    theirs, ours = backbone["pos_embed"][0], fresh["backbone.pos_embed"][0]
    rows, columns = config.init_grid
    ours[0] = theirs[row]
    ours[1 : 1 + rows * columns] = _resize(theirs[row + 1 :].reshape(side, side, config.width), config.init_grid)
    merged = fresh | {f"backbone.{name}": array for name, array in backbone.items() if name != "pos_embed"}
    resized = "kept" if (rows, columns) == (side, side) else f"resized to {rows}x{columns}"
    note = (
        f"pos_embed: row {row} is the position of CLS; grid {side}x{side} {resized}; the rows of the "
        f"{config.det_tokens} DET tokens are initialised."
    )
    initialised = tuple(name for name in fresh if name.removeprefix("backbone.") not in backbone)
    report = dataclasses.replace(found.report, initialised=initialised, notes=(*found.report.notes, note))
    return from_reference(merged, config, report.path), report


def config_of_deit(found: Backbone) -> YolosConfig:
    """The variant with the width and depth of a ViT, as trained on COCO."""
    width, depth = _width(found), _depth(found)
    for config in VARIANTS.values():
        if (config.width, config.depth) == (width, depth):
            return config
    known = ", ".join(f"{name} {config.width} and {config.depth}" for name, config in VARIANTS.items())
    raise InputError(
        f"{found.report.path} has width {width} and {depth} blocks, which is none of the variants ({known}); "
        "pass --config with the model's settings."
    )


def _depth(found: Backbone) -> int:
    return len({name.split(".")[1] for name in found.state if name.startswith("blocks.")})


def _width(found: Backbone) -> int:
    if "patch_embed.proj.bias" not in found.state:
        what = found.report.path
        raise InputError(f"{what} has a patch embedding without bias; that is no ViT for YOLOS to start from.")
    return found.state["patch_embed.proj.bias"].size


def _check_backbone(found: Backbone, config: YolosConfig) -> None:
    """Names and shapes of all but the head; of the position embeddings only their width."""
    backbone, what = found.state, found.report.path
    if _depth(found) != config.depth:
        raise InputError(
            f"{what} has {_depth(found)} blocks of width {_width(found)}, the model wants {config.depth} of width "
            f"{config.width}; choose the --variant or --config that fits."
        )
    patch, wanted = backbone["patch_embed.proj.weight"].shape, config.patch_size
    if len(patch) == 4 and patch[2:] != (wanted, wanted):
        raise InputError(
            f"{what} is made for patches of {patch[2]}x{patch[3]} pixels, the model for {wanted}x{wanted} "
            f"(patch_embed.proj.weight has shape {list(patch)}, wanted {[*patch[:2], wanted, wanted]}); take weights "
            f"for patches of {wanted}."
        )
    absent = _NOT_IN_DEIT if any(name in backbone for name in _NORM) else _NOT_IN_DEIT + _NORM
    expected = {
        name.removeprefix("backbone."): shape
        for name, shape in reference_shapes(config).items()
        if name.startswith("backbone.") and name.removeprefix("backbone.") not in absent
    }
    if "pos_embed" in backbone and backbone["pos_embed"].ndim == 3:
        expected["pos_embed"] = (1, backbone["pos_embed"].shape[1], config.width)
    check(backbone, expected, what)


def _position_layout(found: Backbone) -> tuple[int, int]:
    """(row for CLS, side of the patch grid): one row comes before the patches, two if distilled."""
    tokens = found.state["pos_embed"].shape[1]
    for row in (1,) if found.distilled else (0, 1):
        patches = tokens - row - 1
        if patches > 0 and math.isqrt(patches) ** 2 == patches:
            return row, math.isqrt(patches)
    raise InputError(
        f"pos_embed of {found.report.path} has shape {list(found.state['pos_embed'].shape)}; without its class row "
        f"{'and its distillation row ' if found.distilled else ''}that is no square grid of patches."
    )


def _resize(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`[H, W, D]` -> `[h * w, D]`, bicubic as in torch; bit-equal if the size is the same."""
    if grid.shape[:2] == size:
        return grid.reshape(-1, grid.shape[-1])
    return np.asarray(resize_to_tokens(jnp.asarray(grid), jnp.asarray(size, jnp.int32), math.prod(size), max(size)))
