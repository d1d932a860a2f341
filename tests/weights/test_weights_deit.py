"""Tests initialising from DeiT/timm classifiers: tensors that are used, resized, ignored and initialised."""

import dataclasses
import json

import numpy as np
import pytest
from reference_pack import arrays, config_of, pack, tensors
from safetensors.numpy import load_file
from tiny_weights import TINY, assert_bit_equal, deit_state, from_vit, write

from yolos_jax.errors import InputError
from yolos_jax.model.yolos import build
from yolos_jax.weights import load_weights
from yolos_jax.weights.reference import to_reference
from yolos_jax.weights.source import read_source


def packed_target(name, target):
    """Returns the config of a detector with the size of the position embeddings in the reference pack."""
    z, state = arrays("deit_to_yolos.npz"), tensors(f"deit_{name}.safetensors")
    size = z[f"{name}{target}_target_hw"]
    tokens = z[f"{name}{target}_pos_embed_shape"][1]
    det = tokens - z[f"{name}{target}_pos_patch"].shape[1] - 1
    like = {f"backbone.{key}": array for key, array in state.items()}
    like["backbone.det_token"] = like["backbone.mid_pos_embed"] = np.zeros((1, det, 1), np.float32)
    like["class_embed.layers.2.weight"] = np.zeros((92, 1), np.float32)
    return config_of(like, 1, size, size)


def packed_cases():
    return [(name, target) for name in ("plain", "distilled") for target in (0, 1)]


@pytest.mark.parametrize(("name", "target"), packed_cases())
def test_positions_match_pack(name, target):
    config, z = packed_target(name, target), arrays("deit_to_yolos.npz")
    source = load_file(pack(f"deit_{name}.safetensors"))
    params, report = from_vit(source, config, seed=3)
    state = to_reference(params, config)
    prefix = f"{name}{target}_"
    patches = z[prefix + "pos_patch"].shape[1]
    positions = state["backbone.pos_embed"]
    np.testing.assert_array_equal(positions[:, :1], z[prefix + "pos_cls"])
    assert np.abs(positions[:, 1 : 1 + patches] - z[prefix + "pos_patch"]).max() <= 1e-4
    np.testing.assert_array_equal(positions[0, 0], source["pos_embed"][0, z[f"{name}_cls_slot_source_row"]])
    np.testing.assert_array_equal(state["backbone.cls_token"], z[prefix + "cls_token"])
    assert positions.shape == tuple(z[prefix + "pos_embed_shape"])
    assert state["backbone.mid_pos_embed"].shape == tuple(z[prefix + "mid_pos_embed_shape"])

    assert sorted(report.ignored) == sorted(z[f"{name}_ignored_keys"])
    backbone = [key.removeprefix("backbone.") for key in report.initialised if key.startswith("backbone.")]
    assert sorted(backbone) == sorted(z[f"{name}_new_keys"])
    assert set(report.taken) | set(report.ignored) == set(source)
    for key in report.taken:
        if key != "pos_embed":
            assert state[f"backbone.{key}"].tobytes() == source[key].tobytes(), key


@pytest.mark.parametrize("distilled", [False, True])
def test_other_parameters_are_initialised_from_seed(distilled):
    source = deit_state(distilled=distilled)
    params, report = from_vit(source, TINY, seed=5)
    fresh = to_reference(build(TINY, 5)[1], TINY)
    state = to_reference(params, TINY)
    assert {name for name in report.initialised} == {
        name for name in state if "class_embed" in name or "bbox_embed" in name or "det_token" in name or "mid_" in name
    }
    for name in report.initialised:
        np.testing.assert_array_equal(state[name], fresh[name])
    patches = TINY.init_grid[0] * TINY.init_grid[1]
    np.testing.assert_array_equal(
        state["backbone.pos_embed"][:, 1 + patches :], fresh["backbone.pos_embed"][:, 1 + patches :]
    )
    assert f"row {int(distilled)} is the position of CLS; the 4x4 grid is resized to 3x5" in str(report)
    other = to_reference(from_vit(source, TINY, seed=6)[0], TINY)
    assert not np.array_equal(other["backbone.mid_pos_embed"], state["backbone.mid_pos_embed"])
    taken = slice(0, 1 + patches)
    np.testing.assert_array_equal(other["backbone.pos_embed"][:, taken], state["backbone.pos_embed"][:, taken])


@pytest.mark.parametrize("distilled", [False, True])
def test_keeps_grid_of_equal_size(distilled):
    config = dataclasses.replace(TINY, init_pe_size=(32, 32))
    source = deit_state(config, side=4, distilled=distilled)
    params, report = from_vit(source, config)
    start = 1 + distilled
    assert params["pos_embed"]["grid"].reshape(16, -1).tobytes() == source["pos_embed"][0, start:].tobytes()
    assert "the 4x4 grid is kept" in str(report)


def test_extra_row_means_distilled():
    source = deit_state(distilled=True)
    del source["dist_token"]
    params, _ = from_vit(source, TINY)
    np.testing.assert_array_equal(params["pos_embed"]["cls"][0], source["pos_embed"][0, 1])


def test_infers_variant_from_width_and_depth(monkeypatch, tmp_path):
    path = write(tmp_path / "deit.safetensors", deit_state())
    assert read_source(path).kind == "deit"
    with pytest.raises(InputError, match=r"width 12 and 3 blocks, which do not match any variant \(ti: width 192, 12"):
        load_weights(path)
    monkeypatch.setattr("yolos_jax.weights.deit.VARIANTS", {"tiny": TINY})
    config, params, names, report, *_ = load_weights(path, seed=4)
    assert config == TINY and names is None and report.path == str(path)
    assert_bit_equal(params, from_vit(deit_state(), TINY, 4)[0])


def test_timm_folder(tmp_path):
    """timm folders also have a config.json, but without a model_type."""
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "deit_small_patch16_224", "num_classes": 1000}))
    write(tmp_path / "model.safetensors", deit_state())
    assert_bit_equal(load_weights(tmp_path, TINY)[1], from_vit(deit_state(), TINY)[0])


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"width": 24}, r"attn\.qkv\.weight has shape \[36, 12\], expected \[72, 24\]|and \d+ more with a wrong shape"),
        ({"width": 24}, r"cls_token has shape \[1, 1, 12\], expected \[1, 1, 24\]"),
        ({"width": 24}, r"pos_embed has shape \[1, 17, 12\], expected \[1, 17, 24\]"),
        ({"depth": 4}, "has 3 blocks of width 12, but the model has 4 of width 12"),
        ({"patch_size": 4}, r"patch_embed\.proj\.weight has shape \[12, 3, 8, 8\], expected \[12, 3, 4, 4\]"),
        ({"mlp_ratio": 3.0}, r"mlp\.fc1\.weight has shape \[24, 12\], expected \[36, 12\]"),
    ],
)
def test_rejects_different_backbone(wanted, sentence):
    with pytest.raises(InputError, match=sentence):
        from_vit(deit_state(), dataclasses.replace(TINY, **wanted))


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda s: s.pop("norm.bias"), r"1 missing \(norm\.bias\)"),
        (lambda s: s.update({"fc_norm.bias": s["norm.bias"]}), r"1 unexpected \(fc_norm\.bias\)"),
        (lambda s: s.update(pos_embed=s["pos_embed"][:, 1:-2]), r"shape \[1, 14, 12\].*patch grid is not square"),
        (lambda s: s.update(pos_embed=s["pos_embed"][0]), r"pos_embed has shape \[17, 12\], expected"),
        (lambda s: s.update(dist_token=s["cls_token"]), r"distillation rows, .* not square"),
    ],
)
def test_rejects_invalid_classifiers(edit, sentence):
    state = deit_state()
    edit(state)
    with pytest.raises(InputError, match=sentence):
        from_vit(state, TINY)
