"""Initial parameter values, drawn on the host.

Uses NumPy, because `jax.random` would need ten seconds to compile about sixty small programs. A seed produces the same
values on every device.
"""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from yolos_jax.errors import InputError

SCHEMES = ("reference", "from_nothing")
POSITION_SCALE = 0.7  # scale of sine-cosine positions and DET tokens; patch embeddings have a scale of about 0.6


def fill(model: nnx.Module, key: jax.Array, scheme: str) -> None:
    """Replaces each of a model's declared parameters (`jax.ShapeDtypeStruct`) with its initial values, in place.

    The words of `key` seed `starting_values`. A single host callback draws all values, so the constructor can be
    compiled, and tracing it only for shapes draws no values.
    """
    check_scheme(scheme)
    shapes = nnx.to_pure_dict(nnx.state(model))

    def draw(words: Any) -> dict:
        return starting_values(shapes, np.asarray(words).tolist(), scheme)

    values = jax.pure_callback(draw, shapes, jax.random.key_data(key), vmap_method="sequential")
    nnx.update(model, nnx.State(values))


def check_scheme(scheme: str) -> None:
    """Raises `InputError` if there is no initialisation scheme with this name."""
    if scheme not in SCHEMES:
        raise InputError(f"unknown initialisation scheme {scheme!r}; choose one of {', '.join(SCHEMES)}.")


def starting_values(shapes: dict, seed: Sequence[int], scheme: str = "reference") -> dict:
    """Draws initial parameter values.

    Args:
      shapes: nested dict of objects with a `.shape`, as returned by `model.yolos.abstract`.
      seed: one or more numbers; a parameter's values depend only on them and on the parameter's name.
      scheme: "reference": normal with standard deviation 0.02 for matrices, tokens and position embeddings, PyTorch's
        default for the heads and the patch convolution; DeiT weights then replace most of these. "from_nothing", for
        training without pre-trained weights: the same scale for all, namely normal matrices with standard deviation
        1/sqrt(fan in), sine-cosine positions (as in arXiv 2205.01580) and distant DET tokens. With "reference", tokens
        and positions are tiny compared with patch embeddings, so queries could not localise for thousands of steps.

    Returns:
      A nested dict of float32 numpy arrays with the same structure.
    """
    check_scheme(scheme)

    def values_of(node: Any, names: tuple[str, ...]) -> Any:
        if not isinstance(node, dict):
            return _table(node.shape, names, seed, scheme)
        if node.keys() == {"kernel", "bias"}:
            return _linear(node, names, seed, scheme)
        if node.keys() == {"scale", "bias"}:
            return {"scale": np.ones(node["scale"].shape, np.float32), "bias": np.zeros(node["bias"].shape, np.float32)}
        return {key: values_of(value, (*names, key)) for key, value in node.items()}

    return values_of(shapes, ())


def _random(names: tuple[str, ...], seed: Sequence[int]) -> np.random.Generator:
    return np.random.default_rng([*seed, zlib.crc32("/".join(names).encode())])


def _linear(layer: dict, names: tuple[str, ...], seed: Sequence[int], scheme: str) -> dict[str, np.ndarray]:
    kernel, bias = layer["kernel"].shape, layer["bias"].shape
    rng = _random(names, seed)
    bound = kernel[-2] ** -0.5
    if names[0] in ("class_head", "box_head", "patch_embed"):  # PyTorch's default, for biases as well
        draw = {"kernel": rng.random(kernel, np.float32), "bias": rng.random(bias, np.float32)}
        return {key: (2.0 * value - 1.0) * np.float32(bound) for key, value in draw.items()}
    deviation = np.float32(0.02 if scheme == "reference" else bound)
    return {"kernel": deviation * rng.standard_normal(kernel, np.float32), "bias": np.zeros(bias, np.float32)}


def _table(shape: tuple[int, ...], names: tuple[str, ...], seed: Sequence[int], scheme: str) -> np.ndarray:
    """Tokens and position embeddings. The reference truncates at 100 standard deviations, which has no effect."""
    if scheme == "from_nothing" and names == ("pos_embed", "grid"):
        return np.float32(POSITION_SCALE) * sine_cosine(*shape)
    large = scheme == "from_nothing" and names == ("det_tokens",)
    return np.float32(POSITION_SCALE if large else 0.02) * _random(names, seed).standard_normal(shape, np.float32)


def sine_cosine(height: int, width: int, channels: int) -> np.ndarray:
    """Fixed 2-D position embeddings: float32 `[height, width, channels]`, waves of 0.1 to 2 periods per side."""
    quarter = math.ceil(channels / 4)
    periods = 2.0 * 0.05 ** (np.arange(quarter) / quarter)

    def waves(length: int) -> np.ndarray:
        angle = 2 * np.pi * (np.arange(length)[:, None] + 0.5) / length * periods
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    rows = np.broadcast_to(waves(height)[:, None], (height, width, 2 * quarter))
    columns = np.broadcast_to(waves(width)[None], (height, width, 2 * quarter))
    return np.concatenate([rows, columns], axis=2)[..., :channels].astype(np.float32)
