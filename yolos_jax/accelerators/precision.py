"""Defines each precision: the dtype of activations, and how float32 matrix products are computed.

With float32, products are computed in float32 on every device. With tensorfloat32, GPUs that support it round the
operands of products to 10 fraction bits and sum in float32. With bfloat16, the activations and products of the
transformer are bfloat16; LayerNorm statistics, the heads and the loss stay float32.
"""

PRECISIONS = ("float32", "tensorfloat32", "bfloat16")


def dtype_of(precision: str) -> str:
    """The dtype of the transformer's activations, `Compute.compute_dtype`."""
    return "bfloat16" if precision == "bfloat16" else "float32"


def products_of(precision: str) -> str:
    """The value of `jax.default_matmul_precision`, which applies to float32 products."""
    return "float32" if precision == "bfloat16" else precision
