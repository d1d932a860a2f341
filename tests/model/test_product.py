"""Tests the gradients of products and biases; in bfloat16, those of kernels and biases are float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from yolos_jax.model import on_cpu, vit
from yolos_jax.model.vit import product, with_bias


@pytest.mark.parametrize("size_in, size_out", [(24, 40), (40, 24)])
def test_kernel_gradient_is_float32(size_in, size_out):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(2, 300, size_in)), jnp.bfloat16)
    given = jnp.asarray(random.normal(size=(2, 300, size_out)), jnp.bfloat16)
    kernel = jnp.asarray(random.normal(size=(size_in, size_out)), jnp.float32)
    out, pull = jax.vjp(product, x, kernel)
    of_x, of_kernel = pull(given)
    assert (out.dtype, of_x.dtype, of_kernel.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    exact = [np.float64(a).reshape(600, -1) for a in (x, given)]
    np.testing.assert_allclose(of_kernel, exact[0].T @ exact[1], rtol=0, atol=1e-4)
    rounded = np.float64(kernel.astype(jnp.bfloat16))
    np.testing.assert_allclose(np.float64(of_x).reshape(600, -1), exact[1] @ rounded.T, rtol=2**-8, atol=0.05)


def test_bias_gradient_is_summed_in_float32():
    """A bfloat16 sum over 4,000 tokens would be off by 0.6%."""
    random = np.random.default_rng(0)
    x, given = (jnp.asarray(random.normal(0.02, 1, (2, 2000, 24)), jnp.bfloat16) for _ in range(2))
    out, gradients = jax.jit(lambda bias: jax.vjp(with_bias, x, bias))(jnp.ones(24))
    of_x, of_bias = jax.jit(gradients)(given)
    assert (out.dtype, of_x.dtype, of_bias.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    np.testing.assert_array_equal(out, x + jnp.ones(24, jnp.bfloat16))
    np.testing.assert_array_equal(of_x, given)
    np.testing.assert_allclose(of_bias, np.asarray(given, np.float64).sum((0, 1)), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("gradient", [on_cpu.outer_gradient, vit._plain_outer_gradient], ids=["cpu", "others"])
def test_gradient_of_an_outer_product(gradient):
    """Both implementations, of which a device uses one, are compared with sums in float64."""
    random = np.random.default_rng(0)
    shapes = (2, 300, 1), (1, 1, 24), (2, 300, 24)
    rows, columns, given = (random.normal(size=shape).astype(np.float32) for shape in shapes)
    of_rows, of_columns = jax.jit(gradient)(rows, columns, given)
    exact = given.astype(np.float64)
    np.testing.assert_allclose(of_rows, (exact * columns).sum(2, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(of_columns, (exact * rows).sum((0, 1), keepdims=True), atol=1e-4)
