"""The gradient of a product in bfloat16: the kernel's has the digits of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from yolos_jax.model.vit import product


@pytest.mark.parametrize("size_in, size_out", [(24, 40), (40, 24)])
def test_the_kernels_gradient_is_float32(size_in, size_out):
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
