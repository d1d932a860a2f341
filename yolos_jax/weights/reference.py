"""The reference's state dict <-> our parameters: transpositions, slices and stacks, never arithmetic."""

from collections.abc import Mapping

import jax
import numpy as np

from yolos_jax.errors import InputError
from yolos_jax.model.config import VARIANTS, YolosConfig
from yolos_jax.weights.names import check, reference_shapes

_HEADS = {"class_head": "class_embed", "box_head": "bbox_embed"}  # ours, reference
_BLOCK_LINEARS = (("attn", "qkv"), ("attn", "proj"), ("mlp", "fc1"), ("mlp", "fc2"))


def from_reference(state: Mapping[str, np.ndarray], config: YolosConfig, what: str = "the state dict") -> dict:
    """Our parameters from a reference state dict.

    Args:
      state: float arrays under the reference's names, PyTorch layouts.
      config: the model they belong to; every name and shape is checked against it.
      what: what to call the source in an error.

    Returns:
      Nested dict of contiguous numpy float32 arrays, as `model.yolos.build` makes it.

    Raises:
      InputError: names missing, unexpected or misshapen tensors.
    """
    check(state, reference_shapes(config), what)

    def linear(name: str) -> dict:
        return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}

    def norm(name: str) -> dict:
        return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}

    def block(i: int) -> dict:
        out: dict = {name: norm(f"backbone.blocks.{i}.{name}") for name in ("norm1", "norm2")}
        for part, name in _BLOCK_LINEARS:
            out.setdefault(part, {})[name] = linear(f"backbone.blocks.{i}.{part}.{name}")
        return out

    conv = state["backbone.patch_embed.proj.weight"]
    params = {
        "patch_embed": {
            # our patches hold (row, column, channel)
            "kernel": conv.transpose(2, 3, 1, 0).reshape(config.patch_values, config.width),
            "bias": state["backbone.patch_embed.proj.bias"],
        },
        "cls_token": state["backbone.cls_token"][0],
        "det_tokens": state["backbone.det_token"][0],
        "pos_embed": _split_positions(state["backbone.pos_embed"][0], config.init_grid),
        "blocks": jax.tree.map(lambda *leaves: np.stack(leaves), *[block(i) for i in range(config.depth - 1)]),
        "last_block": block(config.depth - 1),
        "norm": norm("backbone.norm"),
    }
    if config.mid_grid is not None:
        params["mid_pos_embed"] = _split_positions(state["backbone.mid_pos_embed"][:, 0], config.mid_grid)
    for ours, theirs in _HEADS.items():
        params[ours] = {f"fc{i + 1}": linear(f"{theirs}.layers.{i}") for i in range(3)}
    return jax.tree.map(_tidy, params)


def to_reference(params: Mapping, config: YolosConfig) -> dict[str, np.ndarray]:
    """The reference's state dict (contiguous numpy float32) of our parameters; undoes `from_reference` bit by bit.

    Raises:
      InputError: the parameters do not fit `config`.
    """
    out: dict[str, np.ndarray] = {}

    def linear(name: str, part: Mapping) -> None:
        out[f"{name}.weight"], out[f"{name}.bias"] = np.asarray(part["kernel"]).T, part["bias"]

    def norm(name: str, part: Mapping) -> None:
        out[f"{name}.weight"], out[f"{name}.bias"] = part["scale"], part["bias"]

    try:
        side, width = config.patch_size, config.width
        kernel = np.asarray(params["patch_embed"]["kernel"]).reshape(side, side, 3, width)
        out["backbone.patch_embed.proj.weight"] = kernel.transpose(3, 2, 0, 1)
        out["backbone.patch_embed.proj.bias"] = params["patch_embed"]["bias"]
        out["backbone.cls_token"] = np.asarray(params["cls_token"])[None]
        out["backbone.det_token"] = np.asarray(params["det_tokens"])[None]
        out["backbone.pos_embed"] = _join_positions(params["pos_embed"])[None]
        if "mid_pos_embed" in params:
            out["backbone.mid_pos_embed"] = _join_positions(params["mid_pos_embed"])[:, None]
        for i in range(config.depth):
            last = i == config.depth - 1
            block = params["last_block"] if last else jax.tree.map(lambda x, i=i: np.asarray(x)[i], params["blocks"])
            for name in ("norm1", "norm2"):
                norm(f"backbone.blocks.{i}.{name}", block[name])
            for part, name in _BLOCK_LINEARS:
                linear(f"backbone.blocks.{i}.{part}.{name}", block[part][name])
        norm("backbone.norm", params["norm"])
        for ours, theirs in _HEADS.items():
            for i in range(3):
                linear(f"{theirs}.layers.{i}", params[ours][f"fc{i + 1}"])
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(f"the parameters do not belong to the given model config ({error!r}).") from error
    out = {name: _tidy(array) for name, array in out.items()}
    check(out, reference_shapes(config), "the parameters")
    return out


def config_of_reference(state: Mapping[str, np.ndarray], what: str) -> YolosConfig:
    """The variant that the shapes of a reference state dict fit; any number of classes.

    The shapes tell neither the number of heads nor the sides of the position
    grids, so anything but a known variant is an `InputError`.
    """
    classifier = state.get("class_embed.layers.2.bias")
    shapes = {name: tuple(array.shape) for name, array in state.items()}
    for config in VARIANTS.values():
        if classifier is not None and classifier.ndim == 1 and classifier.shape[0] > 1:
            config = YolosConfig.from_dict(config.to_dict() | {"num_classes": classifier.shape[0] - 1})
        if reference_shapes(config) == shapes:
            return config
    seen = ", ".join(
        f"{name.removeprefix('backbone.')} {list(shapes[name])}"
        for name in ("backbone.patch_embed.proj.weight", "backbone.pos_embed", "backbone.mid_pos_embed")
        if name in shapes
    )
    raise InputError(
        f"the shapes of {what} ({seen or 'no patch embedding'}; {len(shapes)} tensors) are those of none of the "
        f"variants {', '.join(VARIANTS)}; pass --config with the model's settings (or --variant to see "
        "which tensors differ)."
    )


def _split_positions(table: np.ndarray, grid: tuple[int, int]) -> dict:
    """`[..., 1 + H * W + DET, D]` (CLS, patches, DET) -> its three parts, the patches as a grid."""
    patches = grid[0] * grid[1]
    middle = table[..., 1 : 1 + patches, :]
    return {
        "cls": table[..., :1, :],
        "grid": middle.reshape(*middle.shape[:-2], *grid, middle.shape[-1]),
        "det": table[..., 1 + patches :, :],
    }


def _join_positions(parts: Mapping) -> np.ndarray:
    grid = np.asarray(parts["grid"])
    patches = grid.reshape(*grid.shape[:-3], -1, grid.shape[-1])
    return np.concatenate([np.asarray(parts["cls"]), patches, np.asarray(parts["det"])], axis=-2)


def _tidy(array: np.ndarray) -> np.ndarray:
    """Contiguous float32: `safetensors` writes an array's memory, whatever its strides say."""
    return np.ascontiguousarray(array, dtype=np.float32)
