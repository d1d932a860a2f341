"""Reads settings of a ViT that its tensors do not determine: heads, activation, epsilon and pixel normalisation.

`config.json` is written by transformers (for a ViT, DeiT or MAE) or by timm (with `pretrained_cfg`). The pixel
normalisation is in transformers' `preprocessor_config.json` or in timm's `config.json`. Every setting that affects the
output is either supported or rejected.
"""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from yolos_jax.errors import InputError, shown
from yolos_jax.model.config import NetworkConfig
from yolos_jax.weights.image_processor import MEAN, SCALE, STD, close

VIT_TYPES = ("vit", "deit", "vit_mae")  # transformers' model types that a detector can start from
# For epsilons up to this value, the relative difference in a norm's output is below 1e-4 if the variance is above 0.05,
# as in a ViT's activations. The same weights are published with 1e-6 (timm) and with 1e-12 (transformers).
SMALL_EPSILON = 1e-5
_EXACT_GELU = ("gelu", "gelu_python")  # transformers' names for the exact GELU (erf)
_VIT_MEAN = _VIT_STD = [0.5] * 3  # transformers' defaults for its ViTs
# Arguments of timm's VisionTransformer that its config.json may set, with the supported values. Other differences
# (layer scale, register tokens, SwiGLU) are visible in the tensor names.
_TIMM_ARGS = {
    "act_layer": (None, "gelu"), "norm_layer": (None, "layernorm"), "block_fn": (None,), "class_token": (True,),
    "no_embed_class": (False,), "pre_norm": (False,), "pos_embed": ("learn",),
}  # fmt: skip
# Meaning of words in timm's "architecture": unsupported settings, and width and number of heads.
_TIMM_MARKS = {"quickgelu": "act_layer 'quick_gelu'", "rpn": "block_fn 'ResPostBlock'"}
_TIMM_SIZES = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12), "large": (1024, 16)}


class Pixels(NamedTuple):
    """Normalisation of pixels (0..255) for the input of a network: `(pixel * scale - mean) / std`, per channel."""

    scale: float
    mean: list[float]
    std: list[float]

    def __str__(self) -> str:
        factor = "" if close([self.scale], [SCALE]) else f" a rescale_factor of {self.scale:g},"
        return f"pixels with{factor} a mean of {self.mean} and a standard deviation of {self.std}"


class VitSettings(NamedTuple):
    """Settings of a ViT; None if unknown."""

    heads: int | None = None
    epsilon: float | None = None  # epsilon of LayerNorm
    pixels: Pixels | None = None


def read_vit(
    config: Mapping[str, Any] | None, processor: Mapping[str, Any] | None, width: int, what: str
) -> VitSettings:
    """Reads the settings of a ViT of this width from the contents of its `config.json` and `preprocessor_config.json`.

    Raises:
      InputError: a value is invalid or not supported by our network; the message names it.
    """
    if config is None:
        return VitSettings()
    with _usable(f"the config.json of {what}"):
        read = _of_transformers if config.get("model_type") in VIT_TYPES else _of_timm
        found = read(config, width)
    if found.pixels is None and processor is not None:
        found = found._replace(pixels=read_pixels(processor, what))
    return found


def read_pixels(
    processor: Mapping[str, Any], what: str, mean: list[float] = _VIT_MEAN, std: list[float] = _VIT_STD
) -> Pixels:
    """Reads the normalisation in a `preprocessor_config.json`, with defaults `mean` and `std`.

    Raises `InputError` if a value is invalid.
    """
    with _usable(f"the preprocessor_config.json of {what}"):
        return _pixels_of(processor, (mean, std))


def check_vit(found: VitSettings, model: NetworkConfig, what: str) -> None:
    """Raises `InputError` if a model and a ViT differ in the number of heads or in the epsilon of LayerNorm."""
    heads, epsilon, wanted = found.heads, found.epsilon, model.layer_norm_eps
    wrong = ""
    if heads not in (None, model.heads):
        wrong = f"{heads} heads but the model has {model.heads}; set model.heads to {heads}"
    if epsilon is not None and epsilon != wanted and max(epsilon, wanted) > SMALL_EPSILON:
        wrong = f"a LayerNorm epsilon of {epsilon:g} but the model has {wanted:g}; set model.layer_norm_eps accordingly"
    if wrong:
        raise InputError(f"{what} has {wrong} in the recipe (--config), or use other weights.")


def with_pixels(layer: Mapping[str, np.ndarray], pixels: Pixels | None) -> tuple[dict[str, np.ndarray], list[str]]:
    """Converts a patch embedding to our pixel normalisation; also returns a note if this changes the weights.

    Normalisation and embedding are both affine, so the converted embedding is the same function of the image.

    Args:
      layer: float32 `kernel` `[patch * patch * 3, D]` and `bias` `[D]`, trained with `pixels`.
      pixels: the source's normalisation; None if it is the same as ours.
    """
    if pixels is None or _as_here(pixels):
        return dict(layer), []
    ours = np.array(STD), np.array(MEAN)
    scale, mean, std = pixels.scale / SCALE, np.array(pixels.mean), np.array(pixels.std)
    gain, shift = scale * ours[0] / std, (scale * ours[1] - mean) / std
    kernel = layer["kernel"].astype(np.float64).reshape(-1, 3, layer["bias"].size)
    bias = layer["bias"] + (kernel.sum(0) * shift[:, None]).sum(0)
    kernel = (kernel * gain[:, None]).reshape(layer["kernel"].shape)
    note = (
        f"the weights expect {pixels} instead of ImageNet's; the patch embedding is converted "
        "so that its output is unchanged."
    )
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}, [note]


def _as_here(pixels: Pixels) -> bool:
    return close([pixels.scale], [SCALE]) and close(pixels.mean, MEAN) and close(pixels.std, STD)


@contextlib.contextmanager
def _usable(file: str) -> Iterator[None]:
    """Converts a `ValueError` about a value in a file to an `InputError`."""
    try:
        yield
    except ValueError as error:
        remedy = "use other weights or, if this is a mistake, fix the file in a copy of the folder"
        raise InputError(f"{file} sets {error}; {remedy}.") from error


def _of_transformers(config: Mapping[str, Any], width: int) -> VitSettings:
    """Reads transformers' `config.json`; raises `ValueError` for unsupported values."""
    act = config.get("hidden_act", "gelu")
    if act not in _EXACT_GELU:
        raise ValueError(f"hidden_act to {shown(act)}, but only 'gelu' is supported")
    heads = config.get("num_attention_heads", 12)
    epsilon = config.get("layer_norm_eps", 1e-12)
    if type(epsilon) not in (int, float) or not 0 <= epsilon < 1:
        raise ValueError(f"layer_norm_eps to {shown(epsilon)}, which must be a number between 0 and 1")
    return VitSettings(_heads(heads, "num_attention_heads", width), float(epsilon))


def _pixels_of(processor: Mapping[str, Any], usual: tuple[list[float], list[float]]) -> Pixels:
    """Returns the normalisation of an image processor; raises `ValueError` for invalid values."""
    for name in ("do_rescale", "do_normalize"):
        if type(processor.get(name, True)) is not bool:
            raise ValueError(f"{name} to {shown(processor[name])}, which must be true or false")
    if processor.get("do_rescale", True) is False:
        raise ValueError("do_rescale to false, so it is unclear whether pixels are 0..1 or 0..255")
    (scale,) = _channels(processor.get("rescale_factor", SCALE), "rescale_factor", 1, 0)
    if processor.get("do_normalize", True) is False:
        return Pixels(scale, [0.0] * 3, [1.0] * 3)
    mean = _channels(processor.get("image_mean", usual[0]), "image_mean", 3)
    return Pixels(scale, mean, _channels(processor.get("image_std", usual[1]), "image_std", 3, 0))


def _of_timm(config: Mapping[str, Any], width: int) -> VitSettings:
    """Reads timm's `config.json`, whose older format has the entries of `pretrained_cfg` at the top level."""
    args, weights = config.get("model_args") or {}, config.get("pretrained_cfg") or config
    for name, value in (("model_args", args), ("pretrained_cfg", weights)):
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} to {shown(value)}, which must be a JSON object")
    for name, known in _TIMM_ARGS.items():
        value = args.get(name, known[0])
        if value not in known:
            raise ValueError(f"{name} to {shown(value)}, but only {known[-1]!r} is supported")
    words = re.split(r"[_.]", str(config.get("architecture", "")))
    for mark in _TIMM_MARKS.keys() & set(words):
        raise ValueError(f"architecture to one with {_TIMM_MARKS[mark]}, which is not supported")
    heads = args.get("num_heads")
    if heads is None:  # in some files, the width does not match the architecture's name
        sizes = [_TIMM_SIZES[word] for word in words if word in _TIMM_SIZES]
        heads = next((number for wide, number in sizes if wide == width), None)
    heads = None if heads is None else _heads(heads, "num_heads", width)
    if "mean" not in weights:
        return VitSettings(heads)
    mean, std = _channels(weights["mean"], "mean", 3), _channels(weights.get("std", STD), "std", 3, 0)
    return VitSettings(heads, None, Pixels(SCALE, mean, std))


def _heads(value: Any, name: str, width: int) -> int:
    if type(value) is int and 1 <= value <= width and width % value == 0:
        return value
    raise ValueError(f"{name} to {shown(value)}, which must be a whole number that divides the width {width}")


def _channels(value: Any, name: str, count: int, above: float = -math.inf) -> list[float]:
    """Returns one number per channel; a single number is used for all channels."""
    values = value if isinstance(value, list) else [value] * count
    good = len(values) == count and all(type(one) in (int, float) for one in values)
    if not good or not all(above < one < 1e6 and one > -1e6 for one in values):
        raise ValueError(f"{name} to {shown(value)}, which is not a valid value")
    return [float(one) for one in values]
