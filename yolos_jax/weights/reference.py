"""Converts state dicts in PyTorch layout to our parameters and back, using only transposition, slicing and stacking.

State dicts of the reference are read and written. State dicts of timm are only written here; `deit` reads them.
"""

import math
from collections.abc import Mapping
from operator import itemgetter

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from yolos_jax.errors import InputError
from yolos_jax.model.classifier_config import ClassifierConfig
from yolos_jax.model.config import VARIANTS, YolosConfig
from yolos_jax.weights.published import with_classes
from yolos_jax.weights.tensor_names import check_shapes, reference_shapes

# Fragments of reference and timm names, and our replacements, applied in this order in both directions.
_FRAGMENTS = (
    ("patch_embed.proj.", "patch_embed."),
    ("det_token", "det_tokens"),
    *((f"class_embed.layers.{i}.", f"class_head.fc{i + 1}.") for i in range(3)),
    *((f"bbox_embed.layers.{i}.", f"box_head.fc{i + 1}.") for i in range(3)),
    *((f"{norm}.weight", f"{norm}.scale") for norm in ("norm", "norm1", "norm2")),
    (".weight", ".kernel"),
)
_HEADS = ("class_embed.", "bbox_embed.")  # all other names in the reference start with "backbone."
LAST_BIAS = "class_embed.layers.2.bias"  # one value per class and one for "no object"
_PATCH_EMBED = "patch_embed.kernel"
_WITH_BATCH = ("_token", "_tokens", "pos_embed")  # name endings of tensors with an extra axis in PyTorch


def from_reference(state: Mapping[str, np.ndarray], config: YolosConfig, what: str = "the state dict") -> dict:
    """Converts a reference state dict (float arrays with the reference's names, in PyTorch layout) to our parameters.

    Returns:
      Nested dict of contiguous numpy float32 arrays, with the structure of `model.yolos.build`.

    Raises:
      InputError: tensors of `what` are missing, unexpected or of the wrong shape for `config`; the message names them.
    """
    check_shapes(state, reference_shapes(config), what)
    flat = {}
    for name, array in state.items():
        name = name.removeprefix("backbone.")
        for theirs, ours in _FRAGMENTS:
            name = name.replace(theirs, ours)
        if name == _PATCH_EMBED:  # our patches have (row, column, channel) order
            flat[name] = array.transpose(2, 3, 1, 0).reshape(config.patch_values, config.width)
        else:
            flat[name] = array.squeeze(-3) if name.endswith(_WITH_BATCH) else array.T
    params = unflatten_dict(flat, sep=".")
    *blocks, last = (params["blocks"][str(i)] for i in range(config.depth))
    params["blocks"] = jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)
    params["last_block"] = last
    for name, grid in (("pos_embed", config.init_grid), ("mid_pos_embed", config.mid_grid)):
        if grid is not None:
            params[name] = _split_positions(params[name], grid)
    return jax.tree.map(_contiguous, params)


def to_reference(params: Mapping, config: YolosConfig) -> dict[str, np.ndarray]:
    """Converts our parameters to a reference state dict (contiguous numpy float32); the inverse of `from_reference`.

    Raises `InputError` if the parameters do not match `config`.
    """
    state = {}
    for name, array in to_timm(params, config).items():
        state[name if name.startswith(_HEADS) else f"backbone.{name}"] = array
    check_shapes(state, reference_shapes(config), "the parameters")
    return state


def to_timm(params: Mapping, config: YolosConfig | ClassifierConfig) -> dict[str, np.ndarray]:
    """Returns a classifier's state dict for timm's `VisionTransformer` or, if distilled, `VisionTransformerDistilled`.

    A detector's additional tensors have the reference's names, without the prefix `backbone.`.
    """
    side, out = config.patch_size, {}
    try:
        tree = jax.tree.map(np.asarray, dict(params))
        blocks = [jax.tree.map(itemgetter(i), tree["blocks"]) for i in range(config.depth - 1)]
        blocks.append(tree.pop("last_block"))
        tree["blocks"] = {str(i): block for i, block in enumerate(blocks)}
        for name in {"pos_embed", "mid_pos_embed"} & tree.keys():
            tree[name] = _join_positions(tree[name])
        for name, array in flatten_dict(tree, sep=".").items():
            if name == _PATCH_EMBED:
                array = array.reshape(side, side, 3, config.width).transpose(3, 2, 0, 1)
            else:
                array = np.expand_dims(array, -3) if name.endswith(_WITH_BATCH) else array.T
            for theirs, ours in _FRAGMENTS:
                name = name.replace(ours, theirs)
            out[name] = _contiguous(array)
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(f"the parameters do not match the given model config ({error!r}).") from error
    return out


def config_of_reference(state: Mapping[str, np.ndarray], what: str) -> YolosConfig:
    """Returns the variant that matches the shapes of a reference state dict, with its number of classes.

    Shapes determine neither the number of heads nor the sides of the grids. Raises `InputError` if no variant matches.
    """
    classifier = state.get(LAST_BIAS)
    shapes = {name: tuple(array.shape) for name, array in state.items()}
    for config in VARIANTS.values():
        if classifier is not None and classifier.ndim == 1 and classifier.shape[0] > 1:
            config = with_classes(config, classifier.shape[0] - 1)
        if reference_shapes(config) == shapes:
            return config
    seen = ", ".join(
        f"{name.removeprefix('backbone.')} {list(shapes[name])}"
        for name in ("backbone.patch_embed.proj.weight", "backbone.pos_embed", "backbone.mid_pos_embed")
        if name in shapes
    )
    raise InputError(
        f"the shapes of {what} ({seen or 'no patch embedding'}; {len(shapes)} tensors) match none of the "
        f"variants {', '.join(VARIANTS)}; use a --config that sets the architecture."
    )


def _split_positions(table: np.ndarray, grid: tuple[int, int]) -> dict:
    """Splits `[..., 1 + H * W + DET, D]` into its three parts: CLS, patches (as a grid) and DET."""
    cls, patches, det = np.split(table, [1, 1 + math.prod(grid)], axis=-2)
    return {"cls": cls, "grid": patches.reshape(*table.shape[:-2], *grid, table.shape[-1]), "det": det}


def _join_positions(tables: Mapping[str, np.ndarray]) -> np.ndarray:
    """The inverse of `_split_positions`. A classifier has no DET rows; a distilled one has a distillation row."""
    grid = tables["grid"]
    flat = {**tables, "grid": grid.reshape(*grid.shape[:-3], -1, grid.shape[-1])}
    return np.concatenate([flat[name] for name in ("cls", "dist", "grid", "det") if name in flat], axis=-2)


def _contiguous(array: np.ndarray) -> np.ndarray:
    """Returns a contiguous float32 array, because `safetensors` writes an array's memory and ignores its strides."""
    return np.ascontiguousarray(array, dtype=np.float32)
