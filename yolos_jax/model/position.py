"""Position embeddings on a grid, resized per image inside the compiled program.

The reference resizes with torch's bicubic (`align_corners=False`): kernel a = -0.75, taps outside the grid repeat the
border, no antialiasing when shrinking. `jax.image.resize` differs in all three, hence this file. Bicubic is
separable, so resizing is two small matrix products whose weights depend on the wanted size; only a bound of that size
has to be known when compiling.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from yolos_jax.model.config import Compute, YolosConfig
from yolos_jax.model.vit import parameter, prepend

A = -0.75  # torch's cubic coefficient


def cubic_weights(size_in: int, size_out: jax.Array, bound: int) -> jax.Array:
    """Resizing weights along one axis.

    Args:
      size_in: length of the source axis.
      size_out: int32 scalar, wanted length, at most `bound`.
      bound: static number of rows to return.

    Returns:
      float32 `[bound, size_in]`; rows from `size_out` on are meaningless (finite).
    """
    # Positions in float32 and in this order of operations, as torch computes them.
    scale = jnp.float32(size_in) / size_out.astype(jnp.float32)
    source = scale * (jnp.arange(bound, dtype=jnp.float32) + 0.5) - 0.5
    first = jnp.floor(source)
    t = source - first

    def near(x: jax.Array) -> jax.Array:  # |x| <= 1
        return ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0

    def far(x: jax.Array) -> jax.Array:  # 1 < |x| < 2
        return ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A

    taps = jnp.stack([far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)], axis=1)
    index = first.astype(jnp.int32)[:, None] + jnp.arange(-1, 3)
    index = jnp.clip(index, 0, size_in - 1)
    return jnp.einsum("rt,rti->ri", taps, jax.nn.one_hot(index, size_in), precision="highest")


def resize_to_tokens(grid: jax.Array, size: jax.Array, tokens: int, max_side: int) -> jax.Array:
    """Resizes one grid of embeddings to an image and reads it out token by token.

    Args:
      grid: `[H, W, D]` embeddings.
      size: int32 `[2]`, the image's (h, w) in patches, each at most `max_side`.
      tokens: static number of patch tokens; slots from `h * w` on are padding.
      max_side: static bound of both sides.

    Returns:
      `[tokens, D]`: row `i` is the embedding of patch (i // w, i % w), zero for padding.
    """
    bound = min(max_side, tokens)
    rows = cubic_weights(grid.shape[0], size[0], bound)
    columns = cubic_weights(grid.shape[1], size[1], bound)
    resized = jnp.einsum("rh,hwd->rwd", rows, grid, precision="highest")
    resized = jnp.einsum("cw,rwd->rcd", columns, resized, precision="highest")
    i = jnp.arange(tokens)
    row, column = jnp.minimum(i // size[1], bound - 1), i % size[1]
    picked = resized[row, column]
    return jnp.where((i < size[0] * size[1])[:, None], picked, 0.0)


class Positions(nnx.Module):
    """Position embeddings: one for CLS, one per DET token, a grid for the patches.

    With `layers`, a stack of that many sets (the mid-layer embeddings).
    """

    def __init__(self, config: YolosConfig, compute: Compute, grid: tuple[int, int], layers: tuple[int, ...] = ()):
        self.skip_equal_count, self.max_side = config.skip_equal_count, compute.max_side
        self.cls = parameter(*layers, 1, config.width)
        self.det = parameter(*layers, config.det_tokens, config.width)
        self.grid = parameter(*layers, *grid, config.width)

    def __call__(self, grid: jax.Array, patches: int) -> jax.Array:
        """float32 `[B, 1 + Q + N, D]`: embeddings of CLS, DET tokens and patches, each image at its own size.

        Args:
          grid: int32 `[B, 2]`, each image's (h, w) in patches, at most `max_side`.
          patches: N, static; slots from `h * w` on are padding, whose embeddings are zero.
        """
        table = self.grid[...]
        count = table.shape[0] * table.shape[1]

        def one(size: jax.Array) -> jax.Array:
            resized = resize_to_tokens(table, size, patches, self.max_side)
            if not self.skip_equal_count or count > patches:
                return resized
            as_is = jnp.pad(table.reshape(count, -1), ((0, patches - count), (0, 0)))
            return jnp.where(size[0] * size[1] == count, as_is, resized)

        return prepend(self.cls[...], self.det[...], jax.vmap(one)(grid))
