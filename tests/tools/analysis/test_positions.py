"""Compares resized position embeddings with the reference, and their similarity with numpy."""

import numpy as np
import pytest
from reference_pack import arrays, tensors

from yolos_jax.errors import InputError
from yolos_jax.tools.analysis.positions import Grid, by_distance, chosen_grids, grids_of, likeness, resized_grid


def test_resizing_matches_the_reference():
    z = arrays("bicubic.npz")
    k, j, _, _, h, w = next(case for case in z["cases"].tolist() if case[2:4] != case[4:6])
    found = resized_grid(Grid("initial", z[f"src{k}"], np.zeros((2, 4))), h, w)
    np.testing.assert_allclose(found.patches, z[f"out{k}_{j}"], atol=1e-4)


def test_likeness_matches_all_pairs():
    rng = np.random.default_rng(0)
    grid = Grid("initial", rng.normal(size=(6, 9, 8)).astype(np.float32), rng.normal(size=(3, 8)).astype(np.float32))
    found = likeness(grid, 3)
    all_of = np.concatenate([grid.det, grid.patches.reshape(-1, 8)])
    unit = all_of / np.linalg.norm(all_of, axis=1, keepdims=True)
    pairs = unit @ unit.T
    np.testing.assert_allclose(found.det, pairs[:3, :3], atol=1e-6)
    np.testing.assert_allclose(found.det_patches, pairs[:3, 3:].reshape(3, 6, 9), atol=1e-6)
    assert found.places.tolist() == [[y, x] for y in (1, 3, 5) for x in (1, 4, 7)]
    for (y, x), values in zip(found.places, found.maps):
        np.testing.assert_allclose(values, pairs[3 + 9 * y + x, 3:].reshape(6, 9), atol=1e-6)
    rows = by_distance(found)
    one = next(row["cosine"] for row in rows if row["along"] == "row" and row["distance"] == 1)
    steps = [pairs[3 + 9 * y + x, 3 + 9 * y + x + d] for y in (1, 3, 5) for x in (1, 4, 7) for d in (-1, 1)]
    assert one == pytest.approx(np.mean(steps), abs=1e-6)
    assert all(row["cosine"] == pytest.approx(1, abs=1e-6) for row in rows if row["distance"] == 0)


def test_grids_of_a_model():
    """There is an initial set, and one after every block except the last; other layers raise an error."""
    from reference_pack import micro_config

    from yolos_jax.weights.reference import from_reference

    config, state = micro_config("mid"), tensors("model_mid.safetensors")
    grids, (h, w) = grids_of(from_reference(state, config)), config.mid_grid
    assert [grid.name for grid in grids] == ["initial", *(f"after block {b}" for b in range(config.depth - 1))]
    want = state["backbone.mid_pos_embed"][1, 0]
    np.testing.assert_array_equal(grids[2].patches, want[1 : 1 + h * w].reshape(h, w, -1))
    np.testing.assert_array_equal(grids[2].det, want[-config.det_tokens :])
    assert chosen_grids(grids, 2, config.depth) == grids[2:]
    with pytest.raises(InputError, match=r"for layer 3; this model of 3 blocks has layers 0 to 2 \(0 is the initial"):
        chosen_grids(grids, 3, config.depth)
    with pytest.raises(InputError, match="only layer 0"):
        chosen_grids(grids[:1], 1, config.depth)
