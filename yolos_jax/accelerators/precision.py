"""What a precision that users ask for means: the dtype of activations, and how products of float32 are computed.

float32 is exact to its last digits on every device. tensorfloat32 changes products on GPUs that have it: 10 bits of
their operands' fractions count, sums are float32. bfloat16 changes the transformer's activations and products; its
statistics, the heads and the loss stay float32.
"""

PRECISIONS = ("float32", "tensorfloat32", "bfloat16")


def dtype_of(precision: str) -> str:
    """The dtype of the transformer's activations, `Compute.compute_dtype`."""
    return "bfloat16" if precision == "bfloat16" else "float32"


def products_of(precision: str) -> str:
    """The precision of float32 products, for `jax.default_matmul_precision`."""
    return "float32" if precision == "bfloat16" else precision
