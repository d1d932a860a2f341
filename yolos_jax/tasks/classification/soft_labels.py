"""The loss of a classifier: cross entropy with label smoothing, for images that may be mixed in pairs.

Images 2k and 2k + 1 form a pair. All functions here are pure; their random numbers are part of the batch.
"""

import jax
import jax.numpy as jnp


def partners(x: jax.Array) -> jax.Array:
    """`[B, ...]` with the images of each pair swapped; B is even."""
    return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)


def mix(patches: jax.Array, share: jax.Array, box: jax.Array, patch: int, columns: int) -> jax.Array:
    """Mixes each image with its partner: blends all pixels (mixup), or pastes a box from the partner (CutMix).

    Args:
      patches: float `[B, N, 3 * patch ** 2]`, images as sequences of patches of `patch` pixels, row by row.
      share: float32 `[B]`, weight of the image itself; 1 leaves it unchanged.
      box: int32 `[B, 4]`, (top, left, bottom, right) in pixels of the box that is pasted from the partner; if it is
        empty, the whole image is blended with weight `share`.
      columns: patches per row of an image.
    """
    count, tokens = patches.shape[:2]
    row, column = jnp.divmod(jnp.arange(tokens), columns)
    within = jnp.arange(patch)

    def inside(first: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:  # [B, N, patch]
        at = first[:, None] * patch + within
        return (at >= low[:, None, None]) & (at < high[:, None, None])

    in_rows = inside(row, box[:, 0], box[:, 2])
    in_columns = inside(column, box[:, 1], box[:, 3])
    taken = (in_rows[..., :, None] & in_columns[..., None, :])[..., None]  # [B, N, patch, patch, 1]
    whole = (box[:, 2] <= box[:, 0])[:, None, None, None, None]
    own = jnp.where(whole, share[:, None, None, None, None], 1.0 - taken)
    pixels = patches.reshape(count, tokens, patch, patch, 3)
    return (own * pixels + (1.0 - own) * partners(pixels)).reshape(patches.shape)


def soft_cross_entropy(logits: jax.Array, labels: jax.Array, share: jax.Array, smoothing: float) -> jax.Array:
    """float32 `[B]`: cross entropy with label smoothing for mixed images.

    The target distribution spreads `smoothing` evenly over the classes. Of the rest, a fraction `share` is assigned to
    the image's label, and 1 - share to its partner's.

    Args:
      logits: float32 `[B, K]`.
      labels: int32 `[B]`.
      share: float32 `[B]`.
    """
    logs = jax.nn.log_softmax(logits)
    own = jnp.take_along_axis(logs, labels[:, None], axis=1)[:, 0]
    if labels.shape[0] % 2:  # a batch of odd size is never mixed
        wanted = own
    else:
        other = jnp.take_along_axis(logs, partners(labels)[:, None], axis=1)[:, 0]
        wanted = share * own + (1.0 - share) * other
    return -(1.0 - smoothing) * wanted - smoothing * logs.mean(-1)


def rank_of_label(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """int32 `[B]`: the number of classes that rank before the label, by descending logit and then by index.

    The rank is K, the number of classes, if any logit is not finite.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    earlier = jnp.arange(logits.shape[1]) < labels[:, None]
    before = ((logits > own) | ((logits == own) & earlier)).sum(-1)
    return jnp.where(jnp.isfinite(logits).all(-1), before, logits.shape[1]).astype(jnp.int32)
