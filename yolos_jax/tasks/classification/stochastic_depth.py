"""Stochastic depth (arXiv 1603.09382): drops branches of blocks at random during training."""

import jax
import jax.numpy as jnp
import numpy as np


def stochastic_depth(keep: jax.Array, rate: float) -> jax.Array:
    """float32 `[B, depth, 2]` for `Classifier`: 0 for dropped branches, else the factor that preserves the expectation.

    The rate grows linearly from 0 at the first block to `rate` at the last. `keep` is bool or uint8 of the same shape.
    """
    return keep.astype(jnp.float32) / (1.0 - jnp.asarray(drop_rates(keep.shape[1], rate)))[:, None]


def drop_rates(depth: int, rate: float) -> np.ndarray:
    """float32 `[depth]`: the probability of dropping each branch of a block."""
    return np.linspace(0.0, rate, depth).astype(np.float32)
