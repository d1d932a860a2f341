"""Box format conversion and overlap for `[..., 4]` JAX arrays."""

import jax
import jax.numpy as jnp


def cxcywh_to_xyxy(boxes: jax.Array) -> jax.Array:
    """(centre x, centre y, width, height) -> (x0, y0, x1, y1)."""
    half = boxes[..., 2:] * 0.5
    return jnp.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)


def giou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Generalised IoU (arXiv 1902.09630) of xyxy boxes, in -1..1; broadcasts its arguments.

    Pass `a[:, None]` and `b[None]` for all pairs. NaN where both boxes have zero area.
    """
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    inner = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    outer = jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2])
    inner = jnp.where(inner >= 0, inner, 0.0)
    overlap = inner[..., 0] * inner[..., 1]
    union = area_a + area_b - overlap
    hull = outer[..., 0] * outer[..., 1]
    return overlap / union - (hull - union) / hull
