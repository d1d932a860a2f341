"""Tests that each setting in the config files of a ViT is either supported or rejected with an error that names it."""

import dataclasses
import json

import numpy as np
import pytest
from tiny_weights import (
    TINY,
    assert_bit_equal,
    deit_state,
    folder,
    from_vit,
    huggingface_folder,
    random_params,
    transformers_vit,
)

from yolos_jax.errors import InputError
from yolos_jax.model.yolos import normalize
from yolos_jax.weights import load_weights
from yolos_jax.weights.architecture import architecture_of
from yolos_jax.weights.starting import starting_params
from yolos_jax.weights.vit_settings import Pixels, VitSettings, check_vit, read_vit, with_pixels

VIT = {"model_type": "vit", "num_attention_heads": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
TIMM = {"architecture": "vit_base_patch16_224", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
# As published with facebook/deit-small-distilled-patch16-224; sizes have the old format, as in facebook/dino-vits8.
OF_DEIT = {
    "crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3, "size": 256,
    "feature_extractor_type": "DeiTFeatureExtractor", **IMAGENET,
}  # fmt: skip


@pytest.mark.parametrize(
    "processor", [OF_DEIT, IMAGENET, IMAGENET | {"rescale_factor": 0.00392156862745098, "do_rescale": True}, None]
)
@pytest.mark.parametrize("epsilon", [1e-12, 1e-6, 1e-5])
def test_published_settings_cause_no_notes(tmp_path, processor, epsilon):
    others = {} if processor is None else {"preprocessor_config": processor}
    path = folder(tmp_path / "vit", VIT | {"layer_norm_eps": epsilon}, transformers_vit(), **others)
    _, params, _, report, _, sizes = load_weights(path, TINY)
    plain, expected = from_vit(transformers_vit())
    assert_bit_equal(params, plain)
    assert report.notes == expected.notes and sizes is None


@pytest.mark.parametrize(
    "pixels", [Pixels(1 / 255, [0.5] * 3, [0.5] * 3), Pixels(1 / 127.5, [1.0, 0.5, 0.0], [0.2, 0.3, 0.4])]
)
def test_converted_normalisation_preserves_embeddings(pixels):
    """Compares with float64 embeddings of pixels with the source's normalisation."""
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (7, 4 * 4 * 3), dtype=np.uint8)
    layer = {"kernel": rng.normal(size=(48, 12)).astype(np.float32), "bias": rng.normal(size=12).astype(np.float32)}
    by_channel = patches.reshape(7, 16, 3).astype(np.float64)
    theirs = (by_channel * pixels.scale - pixels.mean) / pixels.std
    wanted = theirs.reshape(7, 48) @ layer["kernel"].astype(np.float64) + layer["bias"]
    made, notes = with_pixels(layer, pixels)
    found = np.asarray(normalize(patches), np.float64) @ made["kernel"] + made["bias"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())
    assert len(notes) == 1 and str(pixels.mean) in notes[0] and str(pixels.std) in notes[0]
    assert made["kernel"].dtype == made["bias"].dtype == np.float32


@pytest.mark.parametrize(
    ("config", "processor", "mean"),
    [
        (VIT, HALF, 0.5),
        (VIT, {"image_processor_type": "ViTImageProcessor"}, 0.5),  # transformers' default
        (VIT, IMAGENET | {"do_normalize": False}, 0.0),
        (TIMM, None, 0.5),
        (TIMM, IMAGENET, 0.5),  # timm does not read preprocessor_config.json
        ({"architecture": "vit_tiny_patch16_224", **TIMM["pretrained_cfg"]}, None, 0.5),  # before timm 0.9
        ({"architecture": "vit_tiny_patch16_224"}, HALF, 0.5),
    ],
)
def test_converts_other_normalisations(tmp_path, config, processor, mean):
    others = {} if processor is None else {"preprocessor_config": processor}
    state = transformers_vit() if config is VIT else deit_state()
    path = folder(tmp_path / "vit", config, state, **others)
    plain = from_vit(state)[0]
    pixels = Pixels(1 / 255, [mean] * 3, [mean or 1.0] * 3)
    for where in (path, path / "model.safetensors"):  # for a single file, the config files in its folder are read
        _, params, _, report, *_ = load_weights(where, TINY)
        converted, (note,) = with_pixels(plain["patch_embed"], pixels)
        assert_bit_equal(params, plain | {"patch_embed": converted})
        assert note in report.notes and note not in from_vit(state)[1].notes


@pytest.mark.parametrize(
    ("config", "processor", "sentence"),
    [
        (VIT | {"num_attention_heads": 3}, None, "has 3 heads but the model has 2; set model.heads to 3"),
        ({"model_type": "vit"}, None, "has 12 heads"),  # transformers' default
        (VIT | {"num_attention_heads": 5}, None, "num_attention_heads to 5, which must .* divides the width 12"),
        (
            VIT | {"hidden_act": "quick_gelu"},
            None,
            r"config.json of .*vit sets hidden_act to 'quick_gelu', but .*'gelu'",
        ),
        (VIT | {"hidden_act": ["gelu"]}, None, r"hidden_act to \['gelu'\]"),
        (VIT | {"layer_norm_eps": 1e-3}, None, "epsilon of 0.001 but the model has 1e-06; set model.layer_norm_eps"),
        (VIT | {"layer_norm_eps": "small"}, None, "layer_norm_eps to 'small'"),
        (VIT, {"do_rescale": False}, r"preprocessor_config.json of .*vit sets do_rescale to false"),
        (VIT, {"do_normalize": "no"}, "do_normalize to 'no', which must be true or false"),
        (VIT, {"image_std": [0.5, 0.0, 0.5]}, r"image_std to \[0.5, 0.0, 0.5\], which is not a valid value"),
        (VIT, {"image_mean": [0.5]}, r"image_mean to \[0.5\]"),
        (VIT, {"image_mean": [10**400] * 3}, "image_mean to"),
        (TIMM | {"model_args": {"num_heads": 4}}, None, "has 4 heads but the model has 2"),
        (TIMM | {"model_args": {"act_layer": "quick_gelu"}}, None, "act_layer to 'quick_gelu', but only 'gelu' is"),
        (TIMM | {"model_args": {"pre_norm": True}}, None, "pre_norm to True, but only False is supported"),
        (TIMM | {"model_args": {"class_token": False}}, None, "class_token to False"),
        (TIMM | {"model_args": [1]}, None, r"model_args to \[1\], which must be a JSON object"),
        (TIMM | {"architecture": "vit_base_patch32_clip_quickgelu_224"}, None, "one with act_layer 'quick_gelu'"),
        ({"pretrained_cfg": {"mean": "half"}}, None, "mean to 'half', which is not a valid value"),
    ],
)
def test_rejects_unsupported_settings(tmp_path, config, processor, sentence):
    others = {} if processor is None else {"preprocessor_config": processor}
    path = folder(tmp_path / "vit", config, transformers_vit() if "model_type" in config else deit_state(), **others)
    for load in (lambda: load_weights(path, TINY), lambda: starting_params(TINY, str(path), 0)):
        with pytest.raises(InputError, match=sentence) as found:
            load()
        assert "\n" not in str(found.value)


def test_infers_heads_from_timm_names():
    """Checks the sizes that timm defines; the name is ignored if the width differs."""
    for size, width, heads in (("tiny", 192, 3), ("small", 384, 6), ("base", 768, 12), ("large", 1024, 16)):
        config = {"architecture": f"deit_{size}_patch16_224.fb_in1k"}
        assert read_vit(config, None, width, "x").heads == heads
        assert read_vit(config, None, 330, "x").heads is None
    assert read_vit(None, HALF, 12, "x") == VitSettings()


def test_accepts_epsilon_of_recipe(tmp_path):
    path = folder(tmp_path / "vit", VIT | {"layer_norm_eps": 1e-3}, transformers_vit())
    assert architecture_of(str(path), {})["layer_norm_eps"] == 1e-3
    load_weights(path, dataclasses.replace(TINY, layer_norm_eps=1e-3))
    with pytest.raises(InputError, match="epsilon of 1e-06 but the model has 0.001"):
        check_vit(VitSettings(2, 1e-6), dataclasses.replace(TINY, layer_norm_eps=1e-3), "x")


def test_starting_detector_with_other_preprocessing(tmp_path):
    path = huggingface_folder(tmp_path / "hf")
    processor, params = path / "preprocessor_config.json", random_params(TINY)
    processor.write_text('{"size": {"height": 9, "width": 9}, "resample": 3}')  # the mean is ImageNet's by default
    assert_bit_equal(starting_params(TINY, str(path), 0), params)
    processor.write_text(json.dumps(HALF))
    converted, _ = with_pixels(params["patch_embed"], Pixels(1 / 255, [0.5] * 3, [0.5] * 3))
    assert_bit_equal(starting_params(TINY, str(path), 0), params | {"patch_embed": converted})
    processor.write_text('{"rescale_factor": null}')
    with pytest.raises(InputError, match="preprocessor_config.json of .*hf sets rescale_factor to None"):
        starting_params(TINY, str(path), 0)


def edited(remove=(), **more):
    state = {name: array for name, array in deit_state().items() if not any(part in name for part in remove)}
    return state | {name.replace("__", "."): np.zeros(shape, np.float32) for name, shape in more.items()}


@pytest.mark.parametrize(
    ("state", "parts"),
    [
        (
            edited(blocks__0__ls1__gamma=12, blocks__1__ls1__gamma=12),
            r"layer scale \(blocks.\{0-1\}.ls1.gamma\); start from a plain ViT",
        ),
        (edited(reg_token=(1, 4, 12)), r"register tokens \(reg_token\)"),
        (edited(norm_pre__weight=12), r"a norm before the first block \(norm_pre.weight\)"),
        (
            edited(blocks__0__attn__q_norm__weight=6),
            r"norms inside its attention or MLP.* \(blocks.0.attn.q_norm.weight\)",
        ),
        (edited(["mlp.fc1"], blocks__0__mlp__w12__bias=48), r"a gated MLP such as SwiGLU \(blocks.0.mlp.w12.bias\)"),
        (edited(["blocks.0.mlp.fc1.w"], blocks__0__mlp__fc1__weight=(48, 12)), "mlp.fc1 has twice as many outputs"),
        (edited(["cls_token"]), r"it has no class token \(cls_token\)"),
        (edited(["qkv.bias"]), "it has no biases for queries, keys and values"),
        (edited(["cls_token"], reg_token=(1, 4, 12)), r"register tokens \(reg_token\) and no class token"),
    ],
)
def test_reports_unsupported_parts(tmp_path, state, parts):
    path = folder(tmp_path / "timm", {"architecture": "vit"}, state)
    for load in (lambda: load_weights(path, TINY), lambda: architecture_of(str(path), {})):
        with pytest.raises(InputError, match=f"{path} is not a plain ViT.*: .*{parts}") as found:
            load()
        assert "--variant" not in str(found.value)


def test_rejects_different_width(tmp_path):
    wide = dataclasses.replace(TINY, width=24)
    path = huggingface_folder(tmp_path / "hf")
    vit = folder(tmp_path / "vit", VIT, transformers_vit())
    for where, difference in (
        (path, "width 24 vs. 12"),
        (vit, "pos_embed has shape [1, 17, 12], expected [1, 17, 24]"),
    ):
        with pytest.raises(InputError, match="Choose a matching --config") as found:
            starting_params(wide, str(where), 0)
        assert difference in str(found.value)
