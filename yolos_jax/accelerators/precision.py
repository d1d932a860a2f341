"""The meaning of each precision: the dtype of activations, and how float32 products are computed.

float32 computes float32 products on every device. tensorfloat32 rounds the operands of products to 10 bits of fraction
on GPUs that support it; sums are float32. bfloat16 applies to the transformer's activations and products; its
statistics, the heads and the loss stay float32.
"""

PRECISIONS = ("float32", "tensorfloat32", "bfloat16")


def dtype_of(precision: str) -> str:
    """The dtype of the transformer's activations, `Compute.compute_dtype`."""
    return "bfloat16" if precision == "bfloat16" else "float32"


def products_of(precision: str) -> str:
    """The precision of float32 products, for `jax.default_matmul_precision`."""
    return "float32" if precision == "bfloat16" else precision
