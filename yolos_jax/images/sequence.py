"""Converts images to sequences of patches without padding them to a common size.

Each image is resized to a whole number of patches and split into patches row by row. A batch pads only the ends of
shorter sequences. Data workers import this module, so it uses only NumPy and Pillow and does not import jax.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from yolos_jax.errors import InputError

MOST_COUNTS = 2000  # maximum number of distinct sequence lengths to consider as bucket edges


class Batch(NamedTuple):
    """A batch of images as padded sequences of patches."""

    patches: np.ndarray  # uint8 [B, N, 3 * p * p]; values of a patch in (row, column, channel) order
    grid: np.ndarray  # int32 [B, 2]: (h, w) of each image in patches; positions from h * w on are padding


def ceil_div(a: int, b: int) -> int:
    """Integer division, rounded up."""
    return -(-a // b)


def resized_sizes(sizes: np.ndarray, short_side: int | np.ndarray, max_side: int | None, patch: int = 16) -> np.ndarray:
    """Returns the sizes in pixels to which images are resized, as in the reference; sides are multiples of `patch`.

    The short side becomes `short_side` unless the long side would exceed `max_side`. Each side is then rounded down to
    a multiple of `patch`, so x and y scale slightly differently. Operations are in the same order as in the reference,
    because the order affects rounding. If the long side is more than about forty times the short side, the reference
    fails or exceeds the limit; here, sides are at least one patch and at most `max_side` rounded up to whole patches.

    Args:
      sizes: (width, height) in pixels, int `[n, 2]`.
      short_side: target for the short side in pixels, a single number or `[n]`.
      max_side: maximum long side in pixels; None for no limit.

    Returns:
      (width, height) in pixels, int64 `[n, 2]`.
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
    """Returns `resized_sizes` of a single image: (width, height) in pixels."""
    width, height = resized_sizes(np.array([[width, height]]), short_side, max_side, patch)[0]
    return int(width), int(height)


def most_patches(short_side: int, max_side: int, patch: int = 16, ratio: float = math.inf) -> int:
    """Returns an upper bound on the number of patches of any image resized by `resized_sizes`.

    The bound holds for images whose long side is at most `ratio` times the short side; it is 0 for a ratio below 1. If
    `max_side` limits an image, its short side is rounded, so the long side may slightly exceed `max_side`.
    """
    if ratio < 1:
        return 0
    side = np.arange(1, min(short_side, max_side) + 1)  # every possible short side
    reached = (max_side / (side + 0.5) <= ratio) | (side == side[-1])
    long = (side * np.minimum(ratio, max_side / (side - 0.5)) + 1e-6).astype(np.int64) // patch
    long = np.clip(long, 1, ceil_div(max_side, patch))
    return int((np.maximum(side // patch, 1) * long)[reached].max())


def default_max_side(short_side: int) -> int:
    """Returns the maximum long side, as in the reference: 1333 for a short side of 800, proportional for others."""
    return short_side * 1333 // 800


class Geometry(NamedTuple):
    """How images are resized and split into patches; created by `Geometry.of`."""

    short_side: int  # short side of resized images in pixels
    max_side: int  # maximum long side in pixels
    patch: int  # patch size in pixels
    model_max_side: int  # maximum side in patches for which the model is compiled

    @classmethod
    def of(cls, short_side: int, max_side: int, patch: int, model_max_side: int) -> "Geometry":
        """Creates a geometry; a `max_side` of 0 means `default_max_side`. Raises `InputError` for unsupported sides."""
        max_side = max_side or default_max_side(short_side)
        both = "data.short_side or data.max_side (--short-side, --max-side)"
        if short_side < patch or max_side < patch:
            sides = f"the short side is {short_side} and the maximum long side is {max_side} pixels"
            raise InputError(f"{sides}; each must be at least one patch ({patch} pixels). Increase {both}.")
        if ceil_div(max_side, patch) > model_max_side or short_side // patch > model_max_side:
            sides = f"an image side of up to {max(max_side, short_side)} pixels has more patches than model.max_side"
            raise InputError(f"{sides}={model_max_side}; decrease {both}, or increase model.max_side.")
        return cls(short_side, max_side, patch, model_max_side)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Returns the size (width, height) in pixels to which an image is resized."""
        return resized_size(width, height, self.short_side, self.max_side, self.patch)


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resizes an image to `size` (width, height) as in the reference: bilinear with antialiasing, 8 bits (Pillow)."""
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def resize(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Resizes an image to `size` (width, height) with `resized`. Returns uint8 `[height, width, 3]`."""
    return np.asarray(resized(image, size))


def to_patches(image: np.ndarray, patch: int = 16) -> np.ndarray:
    """Returns `[h * p, w * p, 3]` as a view `[h, w, p, p, 3]`; raises `InputError` unless `p` divides both sides."""
    height, width = image.shape[:2]
    if image.ndim != 3 or image.shape[2] != 3 or height % patch or width % patch or not image.size:
        wanted = f"[height, width, 3] with both sides multiples of {patch}"
        raise InputError(f"an image of shape {image.shape} cannot be split into patches; it must be {wanted}.")
    return image.reshape(height // patch, patch, width // patch, patch, 3).transpose(0, 2, 1, 3, 4)


def pack(
    images: Sequence[np.ndarray], tokens: int, batch_size: int, patch: int = 16, max_side: int | None = None
) -> Batch:
    """Splits images into patches and packs them into a batch; unused slots contain a single black patch.

    There are at most B = `batch_size` images `[h * p, w * p, 3]` of the same dtype, with at most N = `tokens` patches.
    Raises `InputError` if a side exceeds `max_side` patches, the maximum for which the model is compiled.
    """
    dtype = images[0].dtype if images else np.uint8
    patches = np.zeros((batch_size, tokens, 3 * patch * patch), dtype)
    grid = np.ones((batch_size, 2), np.int32)
    for i, image in enumerate(images):
        cut = to_patches(image, patch)
        grid[i] = cut.shape[:2]
        if max_side is not None and grid[i].max() > max_side:
            size = f"{image.shape[1]}x{image.shape[0]} pixels exceeds {max_side} patches of {patch} pixels on a side"
            raise InputError(f"an image of {size}; resize it, or increase model.max_side.")
        patches[i, : grid[i].prod()].reshape(cut.shape)[...] = cut
    return Batch(patches, grid)


def rounded_tokens(tokens: int) -> int:
    """Rounds up the length of a single sequence to one of a few lengths; at most an eighth of the result is padding.

    There are eight lengths per factor of two, so images of any shape need only a few compilations.
    """
    step = 1 << max(tokens.bit_length() - 4, 0)
    return ceil_div(tokens, step) * step


def bucket_edges(counts: Sequence[int] | np.ndarray, buckets: int) -> list[int]:
    """Returns at most `buckets` (1 or more) ascending token counts that minimise the padding of the given sequences.

    `counts` are the numbers of patches of all images; the last edge is their maximum. The dynamic program is exact for
    up to `MOST_COUNTS` distinct counts.
    """
    values, frequency = np.unique(np.asarray(counts, np.int64), return_counts=True)
    if len(values) > MOST_COUNTS:  # the table below has quadratic size, so counts are rounded up to fewer values
        kept = np.linspace(0, len(values) - 1, MOST_COUNTS).round().astype(np.int64)
        frequency = np.bincount(np.searchsorted(kept, np.arange(len(values))), frequency).astype(np.int64)
        values = values[kept]
    n = len(values)
    images = np.concatenate([[0], np.cumsum(frequency)])
    # cost[j]: number of tokens, including padding, for the first j distinct counts with the edges so far
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
