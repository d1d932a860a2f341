"""Starting values for training without pre-trained weights.

The reference's initialisation (normal, deviation 0.02, for nearly everything)
serves models that then load DeiT. From nothing it learns slowly: tokens and
position embeddings are tiny beside the patch embeddings, so for thousands of
steps no query can tell where it looks. The values here are on one scale
instead: matrices by their fan-in, sine-cosine positions (as in arXiv 2205.01580),
DET tokens far apart.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np

SCALE = 0.7  # deviation of position embeddings and DET tokens; patch embeddings are about 0.6


def sine_cosine(height: int, width: int, channels: int) -> np.ndarray:
    """Fixed 2-D position embeddings: float32 `[height, width, channels]`, waves of 0.1 to 2 periods a side."""
    quarter = -(-channels // 4)
    periods = 2.0 * 0.05 ** (np.arange(quarter) / quarter)

    def waves(length):
        angle = 2 * np.pi * (np.arange(length)[:, None] + 0.5) / length * periods
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    rows = np.broadcast_to(waves(height)[:, None], (height, width, 2 * quarter))
    columns = np.broadcast_to(waves(width)[None], (height, width, 2 * quarter))
    return np.concatenate([rows, columns], axis=2)[..., :channels].astype(np.float32)


def from_nothing(params: dict, seed: int) -> dict:
    """Replaces the reference's starting values (`model.yolos.build`) by ones that learn without DeiT.

    Blocks' matrices become normal with deviation 1/sqrt(fan in), the initial
    position grid sine and cosine, DET tokens normal with the same deviation;
    everything else stays.
    """
    key = jax.random.key(seed)

    def replace(path, value):
        names = [str(k.key) for k in path]
        own = jax.random.fold_in(key, zlib.crc32("/".join(names).encode()))
        if names[0] in ("blocks", "last_block") and names[-1] == "kernel":
            return jax.random.normal(own, value.shape, value.dtype) * value.shape[-2] ** -0.5
        if names == ["pos_embed", "grid"]:
            return SCALE * jnp.asarray(sine_cosine(*value.shape))
        if names == ["det_tokens"]:
            return SCALE * jax.random.normal(own, value.shape, value.dtype)
        return value

    return jax.tree_util.tree_map_with_path(replace, params)
