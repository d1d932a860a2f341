"""An image as a sequence of patches: the one idea of this project.

Images are never padded onto a common canvas. Each is resized to whole patches and cut row by row; a batch pads only
the tail of shorter sequences. NumPy and Pillow only: data workers import this and must not start jax.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from yolos_jax.errors import InputError

MOST_COUNTS = 2000  # distinct sequence lengths considered as bucket edges


class Batch(NamedTuple):
    """Images as sequences."""

    patches: np.ndarray  # uint8 [B, N, 3 * p * p]; values of a patch in (row, column, channel) order
    grid: np.ndarray  # int32 [B, 2]: (h, w) of each image in patches; slots from h * w on are padding


def ceil_div(a: int, b: int) -> int:
    """Integer division, rounded up."""
    return -(-a // b)


def resized_sizes(sizes: np.ndarray, short_side: int | np.ndarray, max_side: int | None, patch: int = 16) -> np.ndarray:
    """The sizes that the reference resizes images to, in whole patches on both sides.

    The short side becomes `short_side` unless the long one would exceed `max_side`. Each side is then floored to a
    multiple of `patch` separately, so x and y scale slightly differently. The order of operations is the reference's,
    because it affects rounding. For images more than about forty times as long as wide, the reference fails or exceeds
    the bound; here their sides are at least one patch and at most `max_side` rounded up to whole patches.

    Args:
      sizes: int `[n, 2]`, (width, height) in pixels.
      short_side: pixels, one number or `[n]`.
      max_side: pixels; None for no bound.

    Returns:
      int64 `[n, 2]`, like `sizes`.
    """
    sizes = np.asarray(sizes, np.int64)
    short, long = sizes.min(1), sizes.max(1)
    side = np.broadcast_to(np.asarray(short_side, np.int64), short.shape)
    if max_side is not None:
        bounded = np.rint(max_side * short / long).astype(np.int64)  # rounds half to even
        side = np.where(long / short * side > max_side, bounded, side)
    scaled = (side * long / short).astype(np.int64)
    wide = sizes[:, 0] >= sizes[:, 1]
    resized = np.stack([np.where(wide, scaled, side), np.where(wide, side, scaled)], axis=1)
    resized = np.where((side == short)[:, None], sizes, resized)
    if max_side is not None:
        resized = np.minimum(resized, ceil_div(max_side, patch) * patch)
    return np.maximum(resized // patch, 1) * patch


def resized_size(width: int, height: int, short_side: int, max_side: int | None, patch: int = 16) -> tuple[int, int]:
    """`resized_sizes` of a single image: (width, height) in pixels."""
    width, height = resized_sizes(np.array([[width, height]]), short_side, max_side, patch)[0]
    return int(width), int(height)


def most_patches(short_side: int, max_side: int, patch: int = 16, ratio: float = math.inf) -> int:
    """An upper bound on the number of patches of any image resized by `resized_sizes`.

    It holds for images whose long side is at most `ratio` times the short one, and is 0 for a ratio below 1. A short
    side that `max_side` limits is rounded, so the long one may exceed `max_side` by half a pixel of the short side.
    """
    if ratio < 1:
        return 0
    side = np.arange(1, min(short_side, max_side) + 1)  # every possible short side
    reached = (max_side / (side + 0.5) <= ratio) | (side == side[-1])
    long = (side * np.minimum(ratio, max_side / (side - 0.5)) + 1e-6).astype(np.int64) // patch
    long = np.clip(long, 1, ceil_div(max_side, patch))
    return int((np.maximum(side // patch, 1) * long)[reached].max())


def default_max_side(short_side: int) -> int:
    """The reference's bound on the long side: 1333 for a short side of 800, proportional for others."""
    return short_side * 1333 // 800


class Geometry(NamedTuple):
    """How images become sequences; built by `Geometry.of`."""

    short_side: int  # pixels that the short side is resized to
    max_side: int  # maximum pixels of the long side
    patch: int  # patch size in pixels
    model_max_side: int  # longest side in patches that the model is compiled for

    @classmethod
    def of(cls, short_side: int, max_side: int, patch: int, model_max_side: int) -> "Geometry":
        """A `max_side` of 0 uses `default_max_side`. `InputError` for sides that the model does not accept."""
        max_side = max_side or default_max_side(short_side)
        both = "data.short_side or data.max_side (--short-side, --max-side)"
        if short_side < patch or max_side < patch:
            sides = f"a short side of {short_side} and a long one of at most {max_side} pixels"
            raise InputError(f"{sides}: each must be at least one patch ({patch} pixels); raise {both}.")
        if ceil_div(max_side, patch) > model_max_side or short_side // patch > model_max_side:
            sides = f"images of up to {max(max_side, short_side)} pixels have more than model.max_side"
            raise InputError(f"{sides} = {model_max_side} patches on a side; lower {both}, or raise model.max_side.")
        return cls(short_side, max_side, patch, model_max_side)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) in pixels that an image is resized to."""
        return resized_size(width, height, self.short_side, self.max_side, self.patch)


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image resized to (width, height): bilinear (Pillow, antialiased, 8 bits), as in the reference."""
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def resize(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """`resized` to `size`, (width, height) in pixels, as uint8 `[height, width, 3]`."""
    return np.asarray(resized(image, size))


def to_patches(image: np.ndarray, patch: int = 16) -> np.ndarray:
    """`[h * p, w * p, 3]` -> `[h, w, p, p, 3]`, a view; `InputError` if a side is not a multiple of `p`."""
    height, width = image.shape[:2]
    if image.ndim != 3 or image.shape[2] != 3 or height % patch or width % patch or not image.size:
        wanted = f"[height, width, 3] with both sides multiples of {patch}"
        raise InputError(f"an image of shape {image.shape} cannot be cut into patches: it must be {wanted}.")
    return image.reshape(height // patch, patch, width // patch, patch, 3).transpose(0, 2, 1, 3, 4)


def pack(
    images: Sequence[np.ndarray], tokens: int, batch_size: int, patch: int = 16, max_side: int | None = None
) -> Batch:
    """Cuts images and packs them into one batch; slots beyond the images hold a single black patch.

    The images are `[h * p, w * p, 3]`, at most B = `batch_size`, all of one dtype and of at most N = `tokens` patches.
    `InputError` for an image longer than `max_side` patches, the bound that the model is compiled for.
    """
    dtype = images[0].dtype if images else np.uint8
    patches = np.zeros((batch_size, tokens, 3 * patch * patch), dtype)
    grid = np.ones((batch_size, 2), np.int32)
    for i, image in enumerate(images):
        cut = to_patches(image, patch)
        grid[i] = cut.shape[:2]
        if max_side is not None and grid[i].max() > max_side:
            size = f"{image.shape[1]}x{image.shape[0]} pixels is longer than {max_side} patches of {patch} pixels"
            raise InputError(f"an image of {size}; resize it, or raise model.max_side.")
        patches[i, : grid[i].prod()].reshape(cut.shape)[...] = cut
    return Batch(patches, grid)


def rounded_tokens(tokens: int) -> int:
    """A bucket length for a single sequence; at most an eighth of it is padding.

    There are eight lengths per doubling, so images of any shape need only a handful of compilations.
    """
    step = 1 << max(tokens.bit_length() - 4, 0)
    return ceil_div(tokens, step) * step


def bucket_edges(counts: Sequence[int] | np.ndarray, buckets: int) -> list[int]:
    """At most `buckets` (1 or more) ascending token counts that minimise the padding of the given sequences.

    Dynamic programming, exact for up to `MOST_COUNTS` distinct counts. `counts` are the patches of every image; the
    last edge is the largest of them.
    """
    values, frequency = np.unique(np.asarray(counts, np.int64), return_counts=True)
    if len(values) > MOST_COUNTS:  # the table below is quadratic, so neighbours are merged into the larger
        kept = np.linspace(0, len(values) - 1, MOST_COUNTS).round().astype(np.int64)
        frequency = np.bincount(np.searchsorted(kept, np.arange(len(values))), frequency).astype(np.int64)
        values = values[kept]
    n = len(values)
    images = np.concatenate([[0], np.cumsum(frequency)])
    # cost[j]: tokens computed when the first j distinct counts are covered with the edges so far
    cost = np.concatenate([[0.0], values * images[1:]])
    choices = [np.zeros(n, np.int64)]
    for _ in range(min(buckets, n) - 1):
        table = cost[None, :n] + values[:, None] * (images[1:, None] - images[None, :n])
        table[np.arange(n)[None, :] > np.arange(n)[:, None]] = np.inf
        choices.append(table.argmin(1))
        cost = np.concatenate([[0.0], table.min(1)])
    edges = []
    j = n
    while j:
        edges.append(int(values[j - 1]))
        j = int(choices.pop()[j - 1])
    return edges[::-1]
