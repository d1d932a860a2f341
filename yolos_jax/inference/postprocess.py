"""Converts the network's outputs to scored boxes in pixel coordinates."""

import jax
import jax.numpy as jnp

from yolos_jax.model.boxes import cxcywh_to_xyxy


def postprocess(logits: jax.Array, boxes: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The reference's postprocessing: the best class for every query, excluding "no object".

    There is no thresholding, sorting, suppression or clipping. A label may be an id that the data set does not use.

    Args:
      logits: `[B, Q, K + 1]`.
      boxes: `[B, Q, 4]` cxcywh in 0..1.
      size: `[B, 2]` (width, height) of the original images in pixels.

    Returns:
      scores float32 `[B, Q]`, labels int32 `[B, Q]`, boxes float32 `[B, Q, 4]` xyxy in pixels.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)[..., :-1]
    scale = jnp.tile(size.astype(jnp.float32), 2)[:, None]
    return probabilities.max(-1), probabilities.argmax(-1).astype(jnp.int32), cxcywh_to_xyxy(boxes) * scale
