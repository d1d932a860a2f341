"""Compares the network with the reference's outputs, and tests batches, memory and compilation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference_pack import PARITY_VARIANTS, arrays, image_sequence, micro_config, tensors

from yolos_jax.errors import InputError
from yolos_jax.images.sequence import pack
from yolos_jax.model import on_cpu
from yolos_jax.model.config import VARIANTS, Compute, YolosConfig, variant
from yolos_jax.model.vit import LayerNorm
from yolos_jax.model.yolos import abstract, apply, apply_in_turn, apply_on, build, normalize
from yolos_jax.weights.reference import from_reference

MICRO = YolosConfig(
    width=24, depth=3, heads=2, det_tokens=5, num_classes=7, init_pe_size=(64, 96), mid_pe_size=(64, 96)
)


@functools.cache
def model(name, skip_equal_count=False):
    """Returns the config, the reference's arrays, and a compiled network that also returns attention for all layers."""
    config = dataclasses.replace(micro_config(name), skip_equal_count=skip_equal_count)
    graph, layers = abstract(config)[0], (*range(config.depth - 1), -1)
    params = from_reference(tensors(f"model_{name}.safetensors"), config)
    return config, arrays(f"model_{name}.npz"), jax.jit(lambda *batch: apply(graph, params, *batch, layers))


def side_by_side(config, z):
    """Packs all images into one batch, with more tokens than the largest image needs and an empty slot."""
    images = [z[f"in{i}"].transpose(1, 2, 0) for i in range(len(z["sizes_hw"]))]
    tokens = 40 + max(h * w for h, w in z["sizes_hw"]) // config.patch_size**2
    return pack(images, tokens, len(images) + 1, config.patch_size)


def assert_reference(out, slot, z, i, config):
    """Checks that the outputs in a slot match the reference's outputs for image `i`."""
    real = 1 + config.det_tokens + int(z["sizes_hw"][i].prod()) // config.patch_size**2
    np.testing.assert_allclose(out.logits[slot], z[f"pred_logits{i}"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(out.boxes[slot], z[f"pred_boxes{i}"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(out.features[slot], z[f"det_features{i}"], atol=1e-4, rtol=0)
    want = reference_order(z[f"attn{i}"], config.det_tokens)
    np.testing.assert_allclose(out.attention[-1, slot, ..., :real], want, atol=1e-5, rtol=0)


def reference_order(attention, det):
    """Reorders attention columns from (CLS, patches, DET) to (CLS, DET, patches)."""
    return np.concatenate([attention[..., :1], attention[..., -det:], attention[..., 1:-det]], axis=-1)


@pytest.mark.parametrize("name", PARITY_VARIANTS)
@pytest.mark.parametrize("skip_equal_count", [False, pytest.param(True, marks=pytest.mark.numbers)])
def test_matches_the_reference(name, skip_equal_count):
    """All sizes match, but the two for which the reference skips resizing match only with `skip_equal_count`."""
    config, z, detect = model(name, skip_equal_count)
    out = jax.tree.map(np.asarray, detect(*side_by_side(config, z)))
    chosen = range(len(z["sizes_hw"])) if skip_equal_count else unflagged(z)
    assert len(chosen)
    for i in chosen:
        assert_reference(out, i, z, i, config)


def unflagged(z):
    """Returns the indices of the images for which the reference resizes positions."""
    return np.flatnonzero(~(z["interp_skipped"] & (z["kind"] != "own")))


def test_attention_of_inner_layers_equals_a_recomputation():
    """Recomputes attention in NumPy from the reference's stored block inputs and weights."""
    (config, z, detect), state = model("mid"), tensors("model_mid.safetensors")
    number = next(name for name in z.files if name.endswith("_block_in")).removeprefix("dbg").removesuffix("_block_in")
    found = np.asarray(detect(*image_sequence(z[f"in{number}"], config.patch_size)).attention)[:, 0]
    for layer, x in enumerate(z[f"dbg{number}_block_in"].astype(np.float64)):
        name = f"backbone.blocks.{layer}."
        centred = x - x.mean(-1, keepdims=True)
        x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config.layer_norm_eps)
        x = x * state[name + "norm1.weight"] + state[name + "norm1.bias"]
        qkv = x @ state[name + "attn.qkv.weight"].T + state[name + "attn.qkv.bias"]
        q, k, _ = qkv.reshape(len(x), 3, config.heads, -1).transpose(1, 2, 0, 3)
        scores = q[:, -config.det_tokens :] @ k.transpose(0, 2, 1) / np.sqrt(config.width // config.heads)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights = reference_order(weights / weights.sum(-1, keepdims=True), config.det_tokens)
        np.testing.assert_allclose(found[layer], weights, atol=1e-5, rtol=0)


def test_images_are_independent_of_the_batch():
    """The outputs match those of each image alone without padding, which also match the reference."""
    config, z, detect = model("mid")
    together = jax.tree.map(np.asarray, detect(*side_by_side(config, z)))
    for i, size in enumerate(z["sizes_hw"]):
        alone = jax.tree.map(np.asarray, detect(*image_sequence(z[f"in{i}"], config.patch_size)))
        np.testing.assert_allclose(together.logits[i], alone.logits[0], atol=1e-5, rtol=0)
        np.testing.assert_allclose(together.boxes[i], alone.boxes[0], atol=1e-5, rtol=0)
        real = 1 + config.det_tokens + int(size.prod()) // config.patch_size**2
        np.testing.assert_allclose(together.attention[:, i, ..., :real], alone.attention[:, 0], atol=1e-5, rtol=0)
        assert not together.attention[:, i, ..., real:].any()
        if i in unflagged(z):
            assert_reference(alone, 0, z, i, config)


def test_one_cpu_processes_large_images_one_at_a_time(monkeypatch):
    """The outputs equal those of single images, and only one image at a time is in memory."""
    graph, params = build(MICRO)
    patches = np.random.default_rng(0).integers(0, 256, (3, 30, 768), np.uint8)
    grid = np.array([[5, 6], [4, 5], [3, 2]], np.int32)

    def compiled(function, images):
        return jax.jit(functools.partial(function, graph)).lower(params, patches[:images], grid[:images]).compile()

    at_once = compiled(apply_in_turn, 3)  # the images are not large enough to be processed one at a time
    monkeypatch.setattr(on_cpu, "LARGE", 30)
    in_turn, one = compiled(apply_in_turn, 3), compiled(apply, 1)
    for i, out in enumerate(zip(*in_turn(params, patches, grid)[:3])):
        alone = one(params, patches[i : i + 1], grid[i : i + 1])
        for found, want in zip(out, alone):
            np.testing.assert_allclose(found, want[0], atol=1e-6)
    room = [program.memory_analysis().temp_size_in_bytes for program in (at_once, in_turn, one)]
    assert room[1] < room[2] + (room[0] - room[2]) / 2
    cpus = jax.devices("cpu")
    assert apply_on(cpus[:1]) is apply_in_turn and apply_on(cpus) is apply


def test_padding_values_do_not_matter():
    graph, params = build(MICRO)
    detect = jax.jit(lambda patches, grid: apply(graph, params, patches, grid))
    rng = np.random.default_rng(0)
    patches, grid = rng.integers(0, 256, (2, 30, 768), np.uint8), np.array([[4, 5], [3, 2]], np.int32)
    other = patches.copy()
    other[0, 20:], other[1, 6:] = 0, rng.integers(0, 256, (24, 768))
    for a, b in zip(detect(patches, grid)[:3], detect(other, grid)[:3]):
        np.testing.assert_array_equal(a, b)


def test_bytes_are_normalized_on_the_device():
    patches = np.random.default_rng(0).integers(0, 256, (2, 3, 768), np.uint8)
    want = patches.reshape(2, 3, 256, 3) / 255.0
    want = (want - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(normalize(jnp.asarray(patches)), want.reshape(patches.shape), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layer_norm_equals_flax(dtype):
    """Outputs are bit-equal; gradients are sums in another order, so they are equal to within rounding."""
    rng = np.random.default_rng(0)
    x, cotangent = (jnp.asarray(rng.normal(size=(2, 7, 24)), dtype) for _ in range(2))
    scale, bias = (jnp.asarray(rng.normal(size=24), jnp.float32) for _ in range(2))
    theirs = nnx.LayerNorm(24, epsilon=1e-6, dtype=dtype, use_fast_variance=False, rngs=nnx.Rngs(0))

    def run(norm):
        graph = nnx.graphdef(norm)

        def call(scale, bias, x):
            return nnx.merge(graph, nnx.State({"scale": scale, "bias": bias}))(x)

        out, back = jax.vjp(call, scale, bias, x)
        return out, *back(cotangent)

    (out, *gradients), (want, *wants) = run(LayerNorm(MICRO)), run(theirs)
    np.testing.assert_array_equal(out, want)
    for found, expected in zip(gradients, wants, strict=True):
        assert found.dtype == expected.dtype
        # float32 sums of 24 or 14 terms of at most about 4, rounded at most once to bfloat16
        np.testing.assert_allclose(
            found.astype(jnp.float32), expected.astype(jnp.float32), rtol=float(jnp.finfo(dtype).eps), atol=2e-6
        )


def test_attention_stores_no_full_matrix():
    """The compiled forward and backward programs use less temporary memory than the N x N scores of all heads."""
    tokens = 4096
    graph, params = abstract(MICRO, Compute(query_block=128))
    patches, grid = jax.ShapeDtypeStruct((1, tokens, 768), jnp.uint8), jax.ShapeDtypeStruct((1, 2), jnp.int32)

    def forward(params, patches, grid):
        return apply(graph, params, patches, grid).logits

    def loss(params, patches, grid):
        return forward(params, patches, grid).sum()

    all_pairs = MICRO.heads * tokens**2 * 4
    for program in (forward, jax.grad(loss)):
        memory = jax.jit(program).lower(params, patches, grid).compile().memory_analysis()
        assert memory.temp_size_in_bytes < all_pairs


def test_rejects_missing_layers():
    graph, params = build(MICRO)
    with pytest.raises(InputError, match="no layer 3; the model has 3"):
        apply(graph, params, np.zeros((1, 4, 768), np.uint8), jnp.array([[2, 2]]), (3,))


def test_program_does_not_grow_with_depth():
    def operations(depth):
        config = dataclasses.replace(MICRO, depth=depth)
        graph, params = abstract(config)
        args = jax.ShapeDtypeStruct((1, 24, 768), jnp.uint8), jax.ShapeDtypeStruct((1, 2), jnp.int32)
        return jax.jit(lambda p, *a: apply(graph, p, *a)).lower(params, *args).as_text().count("stablehlo.")

    assert operations(3) == operations(9)


def test_query_blocks_do_not_change_the_outputs():
    params = build(MICRO)[1]
    patches = np.random.default_rng(0).integers(0, 256, (1, 48, 768), np.uint8)
    whole, parts = (
        jax.jit(lambda graph, *args: apply(graph, *args).logits, static_argnums=0)(
            abstract(MICRO, compute)[0], params, patches, jnp.array([[6, 8]])
        )
        for compute in (Compute(), Compute(query_block=10))
    )
    np.testing.assert_allclose(whole, parts, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_have_the_published_sizes(name):
    """The parameter counts equal those of the reference's models in names.txt."""
    from reference_pack import pack as pack_file

    sizes = {"ti": "tiny", "s": "small", "s_dwr": "small_dWr", "b": "base"}
    header = next(
        line for line in pack_file("names.txt").read_text().splitlines() if line.startswith(f"# variant {sizes[name]}:")
    )
    leaves = jax.tree.leaves(abstract(variant(name))[1])
    assert f" {sum(leaf.size for leaf in leaves)} parameters" in header


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"width": 50, "heads": 3}, "multiple of model.heads"),
        ({"depth": 1}, "model.depth is 1; .* at least 2"),
        ({"init_pe_size": (8, 100)}, "at least model.patch_size"),
        ({"patch_size": 0}, "patch_size is 0; .* at least 1"),
        ({"mlp_ratio": 0.0}, "mlp_ratio is 0.0"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
        ({"width": "192"}, "model.width is '192'"),
    ],
)
def test_rejects_invalid_configs(wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        YolosConfig(**wrong)
    with pytest.raises(InputError, match="choose one of ti, s, s_dwr, b"):
        variant("xl")
    with pytest.raises(InputError, match="unknown model settings"):
        YolosConfig.from_dict({"widht": 3})


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"query_block": 0}, "model.query_block is 0; .* at least 1"),
        ({"max_side": 84.0}, "model.max_side is 84.0"),
        ({"max_side": True}, "model.max_side is True"),
        ({"compute_dtype": "float16"}, "model.compute_dtype is 'float16'; it must be 'float32' or 'bfloat16'"),
    ],
)
def test_rejects_invalid_compute(wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        Compute(**wrong)
