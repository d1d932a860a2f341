"""What a model costs: multiply-adds by part, by formula and as counted in any jax function; parameters.

The paper's FLOPs (Tables 4 to 6) are multiply-adds, each counted once, of matrix products and convolutions only, as
Detectron2's counter has them. XLA and most vendors count a multiply-add as two.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from yolos_jax.model.config import YolosConfig
from yolos_jax.model.yolos import abstract


class MultiplyAdds(NamedTuple):
    """Multiply-adds of one image's forward pass. Resizing position embeddings is left out, as in the paper."""

    patches: int  # the embedding of the patches
    linear: int  # qkv, the projection after attention, and the MLP, of all blocks
    attention: int  # scores, and their product with the values
    heads: int  # classes and boxes

    @property
    def total(self) -> int:
        return sum(self)


def multiply_adds(config: YolosConfig, rows: int, columns: int, as_published: bool = False) -> MultiplyAdds:
    """Of an image of `rows` x `columns` patches, without padding.

    The last block here asks for the DET tokens only, which the published implementation does not (`as_published`).
    """
    patches, width, queries = rows * columns, config.width, config.det_tokens
    tokens, hidden, last = 1 + queries + patches, config.mlp_width, queries
    if as_published:
        last = tokens
    asking = (config.depth - 1) * tokens + last  # tokens that are queries, over all blocks
    keys = config.depth * tokens
    linear = asking * (width * width + width * width + 2 * width * hidden) + keys * 2 * width * width
    heads = queries * (4 * width * width + width * (config.num_classes + 1) + width * 4)
    return MultiplyAdds(patches * config.patch_values * width, linear, 2 * asking * tokens * width, heads)


def mean_multiply_adds(config: YolosConfig, grids: np.ndarray, as_published: bool = False) -> float:
    """The mean over images of int `[n, 2]` (rows, columns) patches."""
    return float(np.mean([multiply_adds(config, int(h), int(w), as_published).total for h, w in grids]))


def parameter_count(config: YolosConfig) -> int:
    """Numbers that are trained."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract(config)[1]))


def count_multiply_adds(function: Callable, *args: Any) -> int:
    """Multiply-adds of the matrix products in a function of arrays (or of `jax.ShapeDtypeStruct`s), as it is traced.

    Gradients, recomputation and padding count. A scan counts as often as it runs, a while loop of unknown length and
    the longest branch of a condition once.
    """
    return multiply_adds_of(jax.make_jaxpr(function)(*args).jaxpr)


def multiply_adds_of(jaxpr: Any) -> int:
    """The same for a traced function."""
    total = 0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            inner = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += inner * math.prod(equation.outvars[0].aval.shape)
        elif name == "conv_general_dilated":
            kernel, numbers = equation.invars[1].aval.shape, parameters["dimension_numbers"]
            inner = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
            total += inner * math.prod(equation.outvars[0].aval.shape)
        elif name == "cond":
            total += max(multiply_adds_of(branch.jaxpr) for branch in parameters["branches"])
        else:
            times = parameters["length"] if name == "scan" else 1
            total += times * sum(multiply_adds_of(inner) for inner in inner_jaxprs(parameters))
    return total


def inner_jaxprs(parameters: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs that an equation calls; of a function with a gradient of its own, the function."""
    for value in parameters.values():
        for item in value if isinstance(value, tuple | list) else [value]:
            if hasattr(item, "eqns"):
                yield item
            elif hasattr(item, "jaxpr") and hasattr(item.jaxpr, "eqns"):
                yield item.jaxpr
