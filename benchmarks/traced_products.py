"""Counts multiply-adds in any jax function, to check the formulas in `tools.analysis.multiply_adds`."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def count_multiply_adds(function: Callable, *args: Any) -> int:
    """Counts multiply-adds in matrix products and convolutions when `function` is traced with `args`.

    The arguments are arrays or `jax.ShapeDtypeStruct`s. Gradients, recomputation and padding are included. The body of
    a scan counts once per iteration, and that of a while loop counts once. For a conditional, the most expensive branch
    counts.
    """
    return multiply_adds_of(jax.make_jaxpr(function)(*args).jaxpr)


def multiply_adds_of(jaxpr: Any) -> int:
    """Counts multiply-adds in a jaxpr, including the jaxprs that it calls."""
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
    """Yields the jaxprs in an equation's parameters; a custom derivative rule is not included."""
    for value in parameters.values():
        for item in value if isinstance(value, tuple | list) else [value]:
            if hasattr(item, "eqns"):
                yield item
            elif hasattr(item, "jaxpr") and hasattr(item.jaxpr, "eqns"):
                yield item.jaxpr
