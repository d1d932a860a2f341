"""The cost of a model: multiply-adds of each part, computed with formulas, and the number of parameters.

The paper's FLOPs (Tables 4 to 6) are multiply-adds, each counted once, of matrix products and convolutions only, as
counted by Detectron2. XLA and most vendors count a multiply-add as two.
"""

import math
from typing import NamedTuple

import jax
import numpy as np

from yolos_jax.model.config import YolosConfig
from yolos_jax.model.yolos import abstract


class MultiplyAdds(NamedTuple):
    """Multiply-adds of one image's forward pass. As in the paper, resizing of position embeddings is not counted."""

    patches: int  # the embedding of the patches
    linear: int  # qkv, the projection after attention, and the MLP in all blocks
    attention: int  # scores, and their product with the values
    heads: int  # class and box heads

    @property
    def total(self) -> int:
        return sum(self)


def multiply_adds(config: YolosConfig, rows: int, columns: int, as_published: bool = False) -> MultiplyAdds:
    """Multiply-adds for an image of `rows` x `columns` patches, without padding.

    Here, the last block computes only the DET tokens; the published code computes all tokens (`as_published`).
    """
    patches = rows * columns
    width = config.width
    queries = config.det_tokens
    tokens = 1 + queries + patches
    hidden = config.mlp_width
    last = queries
    if as_published:
        last = tokens
    asking = (config.depth - 1) * tokens + last  # total number of query tokens in all blocks
    keys = config.depth * tokens
    linear = asking * (width * width + width * width + 2 * width * hidden) + keys * 2 * width * width
    heads = queries * (4 * width * width + width * (config.num_classes + 1) + width * 4)
    return MultiplyAdds(patches * config.patch_values * width, linear, 2 * asking * tokens * width, heads)


def mean_multiply_adds(config: YolosConfig, grids: np.ndarray, as_published: bool = False) -> float:
    """The mean over images; `grids` is int `[n, 2]`, (rows, columns) of patches."""
    return float(np.mean([multiply_adds(config, int(h), int(w), as_published).total for h, w in grids]))


def parameter_count(config: YolosConfig) -> int:
    """Number of trained parameters."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract(config)[1]))
