"""Position embeddings on a grid, resized per image inside the compiled program.

The reference uses torch's bicubic interpolation (`align_corners=False`): kernel coefficient a = -0.75, border values
repeated outside the grid, no antialiasing when shrinking. `jax.image.resize` differs in all three. A token's embedding
is a weighted sum of 4 x 4 embeddings of the grid, which are gathered at run time, so that one compiled program works
for all sizes. The gradient is computed with two matrix products, because a scatter over tokens would be slow.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from yolos_jax.model.config import Compute, YolosConfig
from yolos_jax.model.vit import parameter, prepend

A = -0.75  # torch's cubic coefficient


def cubic_taps(size_in: int, size_out: jax.Array, at: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The taps of bicubic interpolation along one axis.

    Args:
      size_in: length of the source axis.
      size_out: int32 scalar, length of the resized axis.
      at: int32 `[n]`, indices on the resized axis.

    Returns:
      float32 `[n, 4]` weights and int32 `[n, 4]` indices on the source axis.
    """
    # Uses float32 and the same order of operations as torch.
    scale = jnp.float32(size_in) / size_out.astype(jnp.float32)
    source = scale * (at.astype(jnp.float32) + 0.5) - 0.5
    first = jnp.floor(source)
    t = source - first

    def near(x: jax.Array) -> jax.Array:  # |x| <= 1
        return ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0

    def far(x: jax.Array) -> jax.Array:  # 1 < |x| < 2
        return ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A

    weights = jnp.stack([far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)], axis=1)
    index = first.astype(jnp.int32)[:, None] + jnp.arange(-1, 3)[None]
    return weights, jnp.clip(index, 0, size_in - 1)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def resize_to_tokens(grid: jax.Array, sizes: jax.Array, tokens: int, max_side: int) -> jax.Array:
    """Resizes a grid of embeddings to the size of each image and returns one row per token.

    Args:
      grid: float32 `[H, W, D]` embeddings.
      sizes: int32 `[B, 2]`, each image's (h, w) in patches, at most `max_side`.
      tokens: static number of patch tokens; slots from index `h * w` onwards are padding.
      max_side: static upper bound on both sides.

    Returns:
      float32 `[B, tokens, D]`: row `i` is the embedding of patch (i // w, i % w), zero for padding.
    """
    flat = jnp.asarray(grid).reshape(-1, grid.shape[-1])
    i = jnp.arange(tokens)

    def resized(size: jax.Array) -> jax.Array:
        weights_y, y = cubic_taps(grid.shape[0], size[0], i // size[1])
        weights_x, x = cubic_taps(grid.shape[1], size[1], i % size[1])
        out = jnp.zeros((tokens, grid.shape[-1]), jnp.float32)
        for a in range(4):
            row = sum(weights_x[:, b, None] * flat[y[:, a] * grid.shape[1] + x[:, b]] for b in range(4))
            out += weights_y[:, a, None] * row
        return jnp.where((i < size[0] * size[1])[:, None], out, 0.0)

    return jax.vmap(resized)(sizes)


def _forward(grid: jax.Array, sizes: jax.Array, tokens: int, max_side: int) -> tuple[jax.Array, tuple]:
    # The function is linear, so its gradient needs only the grid's shape, which is saved as an empty array.
    return resize_to_tokens(grid, sizes, tokens, max_side), (jnp.empty((*grid.shape[:2], 0)), sizes)


def _backward(tokens: int, max_side: int, saved: tuple[jax.Array, jax.Array], given: jax.Array) -> tuple:
    """The transpose of resizing: arranges the tokens as images, then computes a matrix product along each axis."""
    empty, sizes = saved
    height, width, _ = empty.shape
    bound = min(max_side, tokens)
    at = jnp.arange(bound)
    y, x = at[:, None], at[None]

    def arranged(given: jax.Array, size: jax.Array) -> jax.Array:  # [bound, bound, D]
        canvas = given[jnp.minimum(y * size[1] + x, tokens - 1)]
        return jnp.where(((y < size[0]) & (x < size[1]))[..., None], canvas, 0.0)

    def weights(size_in: int, size_out: jax.Array) -> jax.Array:  # [size_in, bound]
        taps, index = cubic_taps(size_in, size_out, at)
        return (taps.T[:, None] * (index.T[:, None] == jnp.arange(size_in)[None, :, None])).sum(0)

    # The second product also sums over the images. The column weights are repeated for each row of the grid, so that
    # only whole rows of the canvas are moved.
    rows = jax.vmap(partial(weights, height))(sizes[:, 0])
    columns = jax.vmap(partial(weights, width))(sizes[:, 1])
    canvas = jax.vmap(arranged)(given, sizes).reshape(-1, bound, bound * given.shape[-1])
    canvas = jnp.matmul(rows, canvas, precision="highest").reshape(-1, height, bound, given.shape[-1])
    canvas = canvas.swapaxes(0, 1).reshape(height, -1, given.shape[-1])
    columns = jnp.broadcast_to(columns.swapaxes(0, 1).reshape(width, -1), (height, width, canvas.shape[1]))
    return jnp.matmul(columns, canvas, precision="highest"), None


resize_to_tokens.defvjp(_forward, _backward)


class Positions(nnx.Module):
    """Position embeddings for the CLS token, the DET tokens and a grid of patches.

    With `layers`, it stacks that many sets, as needed for the mid-layer embeddings.
    """

    def __init__(self, config: YolosConfig, compute: Compute, grid: tuple[int, int], layers: tuple[int, ...] = ()):
        self.skip_equal_count, self.max_side = config.skip_equal_count, compute.max_side
        self.cls = parameter(*layers, 1, config.width)
        self.det = parameter(*layers, config.det_tokens, config.width)
        self.grid = parameter(*layers, *grid, config.width)

    def __call__(self, grid: jax.Array, patches: int) -> jax.Array:
        """float32 `[B, 1 + Q + N, D]`: embeddings of CLS, DET tokens and patches, resized for each image.

        Args:
          grid: int32 `[B, 2]`, each image's (h, w) in patches, at most `max_side`.
          patches: N, static; slots from index `h * w` onwards are padding, with zero embeddings.
        """
        table = self.grid[...]
        count = table.shape[0] * table.shape[1]

        sizes = jnp.asarray(grid)
        resized = resize_to_tokens(table, sizes, patches, self.max_side)
        if self.skip_equal_count and count <= patches:
            as_is = jnp.pad(table.reshape(count, -1), ((0, patches - count), (0, 0)))
            equal = sizes[:, 0] * sizes[:, 1] == count
            resized = jnp.where(equal[:, None, None], as_is, resized)
        return prepend(self.cls[...], self.det[...], resized)
