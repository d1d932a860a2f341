"""Tests the distributions of initial values, both those of the reference and those for training from scratch."""

import jax
import numpy as np
import pytest

from yolos_jax.errors import InputError
from yolos_jax.model.config import YolosConfig
from yolos_jax.model.init import sine_cosine
from yolos_jax.model.yolos import abstract, build

CONFIG = YolosConfig(width=96, depth=4, heads=3, init_pe_size=(160, 192), mid_pe_size=(64, 64))


@pytest.mark.parametrize("scheme", ["reference", "from_nothing"])
def test_shapes_types_and_seeds(scheme):
    _, params = build(CONFIG, 0, scheme)
    want = abstract(CONFIG)[1]
    assert jax.tree.structure(params) == jax.tree.structure(want)
    for value, shape in zip(jax.tree.leaves(params), jax.tree.leaves(want)):
        assert value.shape == shape.shape and value.dtype == np.float32
    again, other = build(CONFIG, 0, scheme)[1], build(CONFIG, 1, scheme)[1]
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(again)):
        np.testing.assert_array_equal(a, b)
    assert (params["blocks"]["attn"]["qkv"]["kernel"] != other["blocks"]["attn"]["qkv"]["kernel"]).all()
    # blocks are drawn independently of each other
    first, second = params["blocks"]["mlp"]["fc1"]["kernel"][:2]
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


def test_reference_distributions():
    """Weights are normal (std 0.02); those of the heads and the patch embedding are uniform in +-1/sqrt(fan in)."""
    _, params = build(CONFIG)
    for value in (params["blocks"]["mlp"]["fc2"]["kernel"], params["pos_embed"]["grid"], params["det_tokens"]):
        np.testing.assert_allclose(value.std(), 0.02, rtol=0.05)
    assert not params["blocks"]["attn"]["qkv"]["bias"].any() and (params["norm"]["scale"] == 1).all()
    for layer, fan_in in (
        (params["patch_embed"], 768),
        (params["class_head"]["fc3"], 96),
        (params["box_head"]["fc1"], 96),
    ):
        for value in layer.values():
            assert np.abs(value).max() <= fan_in**-0.5
        np.testing.assert_allclose(layer["kernel"].std(), fan_in**-0.5 / 3**0.5, rtol=0.05)
        assert layer["bias"].std() > 0.3 * fan_in**-0.5


def test_from_nothing_distributions():
    _, params = build(CONFIG, 0, "from_nothing")
    np.testing.assert_allclose(params["last_block"]["mlp"]["fc2"]["kernel"].std(), 384**-0.5, rtol=0.05)
    np.testing.assert_allclose(params["det_tokens"].std(), 0.7, rtol=0.05)
    np.testing.assert_array_equal(params["pos_embed"]["grid"], np.float32(0.7) * sine_cosine(10, 12, 96))
    rows = sine_cosine(5, 7, 10).reshape(35, 10)
    distances = np.linalg.norm(rows[:, None] - rows, axis=-1) + np.eye(35)
    assert distances.min() > 0.05, "every position has a different embedding"
    with pytest.raises(InputError, match="choose one of reference, from_nothing"):
        build(CONFIG, 0, "magic")
