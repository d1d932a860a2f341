"""Position resizing against torch's own numbers."""

import jax
import jax.numpy as jnp
import numpy as np
from reference_pack import arrays

from yolos_jax.model.position import resize_to_tokens


def test_equals_torch_for_every_case():
    z = arrays("bicubic.npz")
    bound = max(int(row[4:].max()) for row in z["cases"])
    tokens = max(int(row[4] * row[5]) for row in z["cases"])
    # One compiled program per source grid serves every target size: that is the point of the method.
    resize = jax.jit(lambda grid, size: resize_to_tokens(grid, size, tokens, bound))
    for k, j, _, _, h, w in z["cases"]:
        found = np.asarray(resize(z[f"src{k}"], jnp.array([h, w])))
        want = z[f"out{k}_{j}"].reshape(h * w, -1)
        np.testing.assert_allclose(found[: h * w], want, atol=1e-4, rtol=0, err_msg=f"{k}: {h}x{w}")
        assert not found[h * w :].any()
    assert resize._cache_size() == len({z[f"src{k}"].shape for k in range(len(z["src_hw"]))})


def test_own_size_is_exact():
    grid = np.random.default_rng(0).normal(size=(5, 7, 4)).astype(np.float32)
    found = resize_to_tokens(jnp.asarray(grid), jnp.array([5, 7]), 40, 9)
    np.testing.assert_array_equal(found[:35], grid.reshape(35, 4))
