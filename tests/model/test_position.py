"""Compares position resizing with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_pack import arrays

from yolos_jax.model.position import resize_to_tokens

# Two compiled programs may round a grid position differently, here by up to 5e-7. The interpolation weights then change
# by up to 1.5 times as much, and they are multiplied by values below 3.
GRADIENT = 2.5e-6


def test_matches_torch():
    z = arrays("bicubic.npz")
    bound = max(int(row[4:].max()) for row in z["cases"])
    tokens = max(int(row[4] * row[5]) for row in z["cases"])
    # One compiled program per source grid must handle all target sizes.
    resize = jax.jit(lambda grid, size: resize_to_tokens(grid, size[None], tokens, bound)[0])
    for k, j, _, _, h, w in z["cases"]:
        found = np.asarray(resize(z[f"src{k}"], jnp.array([h, w])))
        want = z[f"out{k}_{j}"].reshape(h * w, -1)
        np.testing.assert_allclose(found[: h * w], want, atol=1e-4, rtol=0, err_msg=f"{k}: {h}x{w}")
        assert not found[h * w :].any()
    assert resize._cache_size() == len({z[f"src{k}"].shape for k in range(len(z["src_hw"]))})


def test_unchanged_size_is_exact():
    grid = np.random.default_rng(0).normal(size=(5, 7, 4)).astype(np.float32)
    found = resize_to_tokens(jnp.asarray(grid), jnp.array([[5, 7]]), 40, 9)
    np.testing.assert_array_equal(found[0, :35], grid.reshape(35, 4))


@pytest.mark.parametrize("shape, size, tokens", [((5, 7), (4, 3), 15), ((5, 7), (9, 2), 18), ((2, 3), (1, 1), 4)])
def test_gradient_is_the_transpose_of_resizing(shape, size, tokens):
    """Compares with the resizing matrix, obtained from one-hot embeddings, for one size and for a batch of sizes."""
    count, size = shape[0] * shape[1], jnp.array(size)
    resize = jax.jit(lambda size: resize_to_tokens(jnp.eye(count).reshape(*shape, count), size[None], tokens, 9)[0])
    given = np.random.default_rng(0).normal(size=(2, tokens, 6)).astype(np.float32)

    @jax.jit
    def pulled(given):
        one = jax.vjp(lambda grid: resize_to_tokens(grid, size[None], tokens, 9), jnp.zeros((*shape, 6)))[1]
        return one(given[None])[0]

    want = np.einsum("ti,btd->bid", np.float64(resize(size)), given)
    np.testing.assert_allclose(pulled(given[0]).reshape(count, 6), want[0], atol=GRADIENT)
    np.testing.assert_allclose(jax.jit(jax.vmap(pulled))(given).reshape(2, count, 6), want, atol=GRADIENT)
    sizes = jnp.stack([size, size[::-1]])
    both = jax.jit(jax.grad(lambda grid: (resize_to_tokens(grid, sizes, tokens, 9) * given).sum()))
    want = want[0] + np.float64(resize(size[::-1])).T @ given[1]
    np.testing.assert_allclose(both(jnp.zeros((*shape, 6))).reshape(count, 6), want, atol=GRADIENT)
