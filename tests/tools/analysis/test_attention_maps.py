"""Compares attention and rollout with the reference's arrays and with full matrices in numpy."""

import numpy as np
import pytest
from reference_pack import arrays, micro_config, tensors

from yolos_jax import Detector
from yolos_jax.errors import InputError
from yolos_jax.images.reading import open_rgb
from yolos_jax.images.sequence import pack
from yolos_jax.model.config import Compute
from yolos_jax.tools.analysis.attention_maps import det_attention, look_at, look_at_batch
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.weights.reference import from_reference


@pytest.fixture(scope="module")
def reference():
    """(config, parameters, the reference's tensors and arrays) of the micro model with stored intermediate values."""
    config, state = micro_config("mid"), tensors("model_mid.safetensors")
    return config, from_reference(state, config), state, arrays("model_mid.npz")


def whole_matrices(config, state, inputs):
    """Attention matrices float64 `[depth, heads, T, T]` from the input of each block; tokens are in yolos-jax order."""
    out, det = [], config.det_tokens
    order = np.r_[0, inputs.shape[1] - det : inputs.shape[1], 1 : inputs.shape[1] - det]
    for layer, x in enumerate(inputs.astype(np.float64)[:, order]):
        name = f"backbone.blocks.{layer}."
        centred = x - x.mean(-1, keepdims=True)
        x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config.layer_norm_eps)
        x = x * state[name + "norm1.weight"] + state[name + "norm1.bias"]
        qkv = x @ state[name + "attn.qkv.weight"].T + state[name + "attn.qkv.bias"]
        q, k, _ = qkv.reshape(len(x), 3, config.heads, -1).transpose(1, 2, 0, 3)
        weights = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(config.width // config.heads))
        out.append(weights / weights.sum(-1, keepdims=True))
    return np.stack(out)


def test_attention_and_rollout_match_the_reference(reference):
    """With padding and small query blocks: the last block matches `attn`, and all blocks match the full matrices."""
    config, params, state, z = reference
    number = next(name for name in z.files if name.endswith("_block_in")).removeprefix("dbg").removesuffix("_block_in")
    image = z[f"in{number}"].transpose(1, 2, 0)
    patches = image.shape[0] * image.shape[1] // config.patch_size**2
    batch = pack([image], patches + 9, 1, config.patch_size)
    compute, layers = Compute(query_block=50), tuple(range(config.depth))
    found = look_at_batch(params, *batch, np.array([[320, 200]], np.float32), config, compute, layers, True)

    det, real = slice(1, 1 + config.det_tokens), 1 + config.det_tokens + patches
    want = whole_matrices(config, state, z[f"dbg{number}_block_in"])
    np.testing.assert_allclose(found.attention[:, 0, ..., :real], want[:, :, det], atol=1e-5, rtol=0)
    last = z[f"attn{number}"]  # CLS, patches, DET
    last = np.concatenate([last[..., :1], last[..., -config.det_tokens :], last[..., 1 : -config.det_tokens]], -1)
    np.testing.assert_allclose(found.attention[-1, 0, ..., :real], last, atol=1e-5, rtol=0)

    product = np.eye(real)
    for matrix in want.mean(1):
        product = (matrix + np.eye(real)) / 2 @ product
    np.testing.assert_allclose(found.rollout[0, :, :real], product[det], atol=1e-6, rtol=0)
    assert not np.asarray(found.rollout)[..., real:].any() and not np.asarray(found.attention)[..., real:].any()
    boxes = z[f"pred_boxes{number}"] * [320, 200, 320, 200]
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    np.testing.assert_allclose(found.boxes[0], corners, atol=1e-2)


def test_maps_of_an_image(reference, tmp_path):
    """The predictions match the detector's for the same image, and the maps list patches row by row."""
    config, params, _, _ = reference
    detector = Detector(params, Meta(config, {3: "cat"}), 64, 96)
    picture = np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8)
    seen = look_at(detector, picture, (0, -1), rollout=True)
    assert seen.grid == (3, 6)  # 60 x 96 pixels, floored to whole patches
    assert seen.layers == (0, config.depth - 1) and seen.image.size == (80, 50)
    found = detector(picture, 0.0)
    order = seen.over(0.0)
    np.testing.assert_allclose(seen.boxes[order], found.boxes, atol=1e-4)
    np.testing.assert_allclose(seen.scores[order], found.scores, atol=1e-6)
    assert [seen.names[token] for token in order] == found.names
    assert len(seen.over(float(found.scores[4:6].mean()))) == 5
    maps, first = seen.maps(), 1 + config.det_tokens
    assert maps.shape == (config.heads, config.det_tokens, *seen.grid)
    h, w = seen.grid
    np.testing.assert_array_equal(maps[:, :, h - 1, 1], seen.attention[1, ..., first + (h - 1) * w + 1])
    np.testing.assert_array_equal(seen.maps(0), seen.maps(-2))
    np.testing.assert_allclose(seen.attention.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(seen.rollout.sum(-1), 1, atol=1e-5)
    assert seen.rollout_maps().shape == (config.det_tokens, h, w)
    seen.image.save(tmp_path / "picture.png")
    np.testing.assert_array_equal(np.asarray(open_rgb(tmp_path / "picture.png")), picture)
    np.testing.assert_allclose(det_attention(detector, tmp_path / "picture.png", -1), maps, atol=1e-5, rtol=0)
    depth = config.depth
    with pytest.raises(InputError, match=f"no layer {depth}; the model has {depth} layers, counted from 0"):
        det_attention(detector, picture, depth)


def test_attention_stores_no_full_matrix(reference):
    """The compiled program, including rollout, uses less temporary memory than one matrix of all token pairs."""
    import jax

    from yolos_jax.model.yolos import abstract

    config, tokens = reference[0], 4096
    patches, grid = jax.ShapeDtypeStruct((1, tokens, 768), np.uint8), jax.ShapeDtypeStruct((1, 2), np.int32)
    size, params = jax.ShapeDtypeStruct((1, 2), np.float32), abstract(config)[1]
    program = look_at_batch.lower(params, patches, grid, size, config, Compute(query_block=128), (-1,), True).compile()
    assert program.memory_analysis().temp_size_in_bytes < config.heads * tokens**2 * 4
