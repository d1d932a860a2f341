"""Tests state dicts of the reference: names, shapes, and bit-equal round trips."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from reference_pack import config_of, micro_config, pack, tensors, train_config
from tiny_weights import TINY, assert_bit_equal, listed, random_params, reference_state, write

from yolos_jax.errors import InputError
from yolos_jax.model.config import VARIANTS
from yolos_jax.model.yolos import abstract
from yolos_jax.weights import load_weights
from yolos_jax.weights.huggingface import to_huggingface
from yolos_jax.weights.reference import from_reference, to_reference
from yolos_jax.weights.source import read_source
from yolos_jax.weights.tensor_names import huggingface_names, huggingface_shapes, reference_shapes

OUR_NAMES = {"tiny": "ti", "small": "s", "small_dWr": "s_dwr", "base": "b"}


def listed_config(header, shapes):
    def size(key):
        found = re.search(key + r" \[(\d+), (\d+)\]", header)
        return found and (int(found[1]), int(found[2]))

    hollow = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    return config_of(hollow, 1, size("init_pe"), size("mid_pe"))


def zeros(config):
    """Returns parameters that use no memory: a single repeated zero."""
    return jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), abstract(config)[1])


def test_names_and_shapes_of_every_variant():
    for variant, (header, shapes) in listed("names.txt").items():
        config = listed_config(header, shapes)
        state = to_reference(zeros(config), config)
        assert {name: array.shape for name, array in state.items()} == shapes, variant
        assert sum(array.size for array in state.values()) == int(re.search(r"(\d+) parameters", header)[1])


def test_huggingface_names_and_shapes_of_every_variant():
    references = listed("names.txt")
    for variant, (_, shapes) in listed("hf_names.txt").items():
        config = listed_config(*references[variant])
        state = to_huggingface(zeros(config), config)
        assert {name: array.shape for name, array in state.items()} == shapes, variant


def test_variants_match_the_paper():
    for variant, (_, shapes) in listed("names.txt").items():
        assert reference_shapes(VARIANTS[OUR_NAMES[variant]]) == shapes, variant


def test_name_map():
    for line in pack("names_map.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        ours, theirs, rows = line.split("\t")
        part = {"": 0, "rows 0:D": 0, "rows D:2D": 1, "rows 2D:3D": 2}[rows]
        assert huggingface_names(ours.replace("{i}", "7"))[part] == theirs.replace("{i}", "7")


@pytest.mark.parametrize("name", ["init_only", "mid", "distilled"])
def test_micro_model_round_trip_is_bit_equal(name):
    config, state = micro_config(name), tensors(f"model_{name}.safetensors")
    found, params, names, report, *_ = load_weights(pack(f"model_{name}.safetensors"), config)
    assert found == config and names is None
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda x: x.shape, abstract(config)[1])
    assert_bit_equal(to_reference(params, config), dict(state))
    assert set(report.taken) == set(state) and not report.initialised and not report.ignored


def test_initial_parameters_round_trip_is_bit_equal():
    config = train_config()
    state = tensors("train_init.safetensors")
    assert_bit_equal(to_reference(from_reference(state, config), config), dict(state))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mid_pe_size": None},
        {"mid_pe_size": (40, 16)},
        {"init_pe_size": (23, 41), "mid_pe_size": None},
        {"depth": 2, "mlp_ratio": 2.25, "num_classes": 1, "det_tokens": 1},
    ],
)
def test_parameters_round_trip_is_bit_equal(changes):
    config = dataclasses.replace(TINY, **changes)
    params = random_params(config)
    state = to_reference(params, config)
    assert {name: array.shape for name, array in state.items()} == reference_shapes(config)
    assert all(array.flags.c_contiguous for array in state.values())
    assert_bit_equal(from_reference(state, config), params)


def test_layout_of_kernels_and_positions():
    """Checks single elements, because a round trip would not reveal a wrong transpose."""
    state = reference_state()
    params = from_reference(state, TINY)
    p, columns = TINY.patch_size, TINY.init_grid[1]
    row, column, channel, out = 3, 5, 2, 7
    value = (row * p + column) * 3 + channel
    conv = state["backbone.patch_embed.proj.weight"]
    assert params["patch_embed"]["kernel"][value, out] == conv[out, channel, row, column]
    qkv = state["backbone.blocks.1.attn.qkv.weight"]
    assert params["blocks"]["attn"]["qkv"]["kernel"][1, 4, 20] == qkv[20, 4]
    assert params["last_block"]["mlp"]["fc1"]["kernel"][2, 9] == state["backbone.blocks.2.mlp.fc1.weight"][9, 2]
    positions, mid = state["backbone.pos_embed"][0], state["backbone.mid_pos_embed"][1, 0]
    assert params["pos_embed"]["grid"][2, 1, 6] == positions[1 + 2 * columns + 1, 6]
    assert params["pos_embed"]["det"][4, 6] == positions[-1, 6]
    assert params["mid_pos_embed"]["grid"][1, 2, 1, 6] == mid[1 + 2 * columns + 1, 6]
    assert params["mid_pos_embed"]["cls"][1, 0, 6] == mid[0, 6]


def test_infers_variant_from_shapes(monkeypatch, tmp_path):
    monkeypatch.setattr("yolos_jax.weights.reference.VARIANTS", {"tiny": TINY})
    config, *_ = load_weights(write(tmp_path / "a.safetensors", reference_state()))
    assert config == TINY
    fewer = dataclasses.replace(TINY, num_classes=2)
    config, *_ = load_weights(write(tmp_path / "b.safetensors", reference_state(fewer)))
    assert config == fewer


def test_unknown_shapes_require_config(tmp_path):
    with pytest.raises(InputError, match=r"none of the variants ti, s, s_dwr, b; use a --config"):
        load_weights(write(tmp_path / "a.safetensors", reference_state()))


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda s: s.pop("backbone.norm.bias"), r"1 missing \(backbone\.norm\.bias\)"),
        (lambda s: s.update(surprise=np.zeros(1, np.float32)), r"1 unexpected \(surprise\)"),
        (
            lambda s: s.update({"class_embed.layers.2.bias": np.zeros(9, np.float32)}),
            r"class_embed\.layers\.2\.bias has shape \[9\], expected \[5\]",
        ),
    ],
)
def test_reports_mismatches(tmp_path, edit, sentence):
    state = reference_state()
    edit(state)
    path = write(tmp_path / "a.safetensors", state)
    with pytest.raises(InputError, match=sentence):
        load_weights(path, TINY)


def test_rejects_parameters_of_different_model():
    with pytest.raises(InputError, match=r"backbone\.mid_pos_embed"):
        to_reference(random_params(TINY), dataclasses.replace(TINY, mid_pe_size=None))
    with pytest.raises(InputError, match="do not match"):
        to_reference({}, TINY)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_float_types_are_cast_and_reported(tmp_path, dtype):
    kept = reference_state()
    state = kept | {"backbone.norm.bias": kept["backbone.norm.bias"].astype(jax.numpy.dtype(dtype))}
    path = write(tmp_path / "a.safetensors", state)
    source = read_source(path)
    assert source.kind == "reference" and source.hf_config is None
    _, params, _, report, *_ = load_weights(path, TINY)
    assert report.cast == (f"backbone.norm.bias ({dtype})",)
    assert f"backbone.norm.bias ({dtype})" in str(report)
    np.testing.assert_array_equal(params["norm"]["bias"], state["backbone.norm.bias"].astype(np.float32))
    assert params["norm"]["bias"].dtype == np.float32


def test_rejects_integers(tmp_path):
    state = reference_state() | {"backbone.norm.bias": np.zeros(TINY.width, np.int32)}
    with pytest.raises(InputError, match=r"backbone\.norm\.bias of .* has dtype int32"):
        load_weights(write(tmp_path / "a.safetensors", state), TINY)


def test_huggingface_splits_only_qkv():
    assert len(huggingface_shapes(TINY)) == len(reference_shapes(TINY)) + 4 * TINY.depth
