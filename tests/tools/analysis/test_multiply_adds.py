"""Compares multiply-adds with hand-computed sums, the traced program, XLA's count and the paper's tables."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference_pack import data_folder

from benchmarks.traced_products import count_multiply_adds
from yolos_jax.images.sequence import default_max_side, resized_sizes
from yolos_jax.model.config import VARIANTS, YolosConfig
from yolos_jax.model.yolos import abstract, apply
from yolos_jax.tools.analysis.multiply_adds import mean_multiply_adds, multiply_adds, parameter_count

CONFIG = YolosConfig(width=128, depth=2, heads=2, det_tokens=8, num_classes=5, init_pe_size=(64, 64))


def program(config, rows, columns):
    """The forward pass of one image, and the shapes of its arguments."""
    graph, params = abstract(config)
    patches = jax.ShapeDtypeStruct((1, rows * columns, config.patch_values), jnp.float32)
    grid = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    return lambda params, patches, grid: apply(graph, params, patches, grid), (params, patches, grid)


def test_formula():
    """The model has width 128; 8 of the 21 tokens are queries in the last block."""
    found = multiply_adds(CONFIG, 3, 4)
    assert found.patches == 12 * 768 * 128
    first = 21 * (128 * 384 + 128 * 128 + 2 * 128 * 512)
    last = 21 * 128 * 256 + 8 * (128 * 128 + 128 * 128 + 2 * 128 * 512)
    assert found.linear == first + last
    assert found.attention == 2 * 21 * 21 * 128 + 2 * 8 * 21 * 128
    assert found.heads == 8 * (4 * 128 * 128 + 128 * 6 + 128 * 4)
    whole = multiply_adds(CONFIG, 3, 4, as_published=True)
    assert whole.linear == 2 * first and whole.attention == 2 * 2 * 21 * 21 * 128
    assert whole.total == sum(whole) and mean_multiply_adds(CONFIG, np.array([[3, 4], [3, 4]])) == found.total


def test_count_multiply_adds():
    a, b = jnp.zeros((2, 3, 4)), jnp.zeros((2, 4, 5))
    assert count_multiply_adds(lambda a, b: jax.jit(jnp.matmul)(a, b) + 1, a, b) == 2 * 3 * 4 * 5
    assert count_multiply_adds(lambda b: jax.lax.scan(lambda c, x: (c + (x @ x.T).sum(), None), 0.0, b)[0], b) == 160
    image, kernel = jnp.zeros((1, 3, 8, 8)), jnp.zeros((7, 3, 4, 4))
    convolve = lambda i, k: jax.lax.conv(i, k, (4, 4), "VALID")  # noqa: E731
    assert count_multiply_adds(convolve, image, kernel) == 2 * 2 * 7 * 3 * 16
    square, x = (lambda w, x: jnp.square(x @ w).sum()), jnp.zeros((6, 3))
    assert count_multiply_adds(jax.grad(square, (0, 1)), jnp.zeros((3, 5)), x) == 3 * 6 * 3 * 5
    assert count_multiply_adds(jax.grad(jax.checkpoint(square), (0, 1)), jnp.zeros((3, 5)), x) == 4 * 6 * 3 * 5


def test_traced_program():
    """The formula matches the traced program, except for resizing position embeddings, which the formula omits."""
    function, arguments = program(CONFIG, 6, 8)
    graph, shapes = abstract(CONFIG)
    network = nnx.merge(graph, nnx.State(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)))
    positions = count_multiply_adds(lambda grid: network.pos_embed(grid, 48), arguments[2])
    assert count_multiply_adds(function, *arguments) - positions == multiply_adds(CONFIG, 6, 8).total


def test_count_of_xla():
    """XLA counts a multiply-add as two, includes softmax, norms, GELU and positions, and counts a loop's body once.

    The loop runs over the attention heads.
    """
    function, arguments = program(CONFIG, 10, 12)
    flops = jax.jit(function).lower(*arguments).cost_analysis()["flops"]
    ours = multiply_adds(CONFIG, 10, 12)
    assert 1.0 <= flops / 2 / (ours.total - ours.attention * (1 - 1 / CONFIG.heads)) <= 1.15


@pytest.mark.parametrize(
    ("name", "short_side", "published"),
    [("ti", 256, 3.4), ("ti", 432, 11.7), ("ti", 512, 18.8), ("s", 800, 194), ("s_dwr", 784, 172), ("b", 800, 538)],
)
def test_paper_tables(name, short_side, published):
    """Tables 4 to 6, in billions, over the first 100 images of COCO val; the images here differ, so 3% is allowed."""
    listed = json.loads((data_folder("coco_tiny80") / "annotations" / "instances_val2017.json").read_text())["images"]
    sizes = np.array([(image["width"], image["height"]) for image in listed])
    grids = resized_sizes(sizes, short_side, default_max_side(short_side))[:, ::-1] // 16
    assert mean_multiply_adds(VARIANTS[name], grids, as_published=True) == pytest.approx(published * 1e9, rel=0.03)


def test_parameters():
    """The published models have as many parameters as PyTorch counts in the reference."""
    assert {name: round(parameter_count(config) / 1e6, 1) for name, config in VARIANTS.items()} == {
        "ti": 6.5, "s": 30.7, "s_dwr": 27.6, "b": 127.8,
    }  # fmt: skip
