"""Tests initialising from DINO, MoCo v3, MAE, and the ViT and DeiT of transformers."""

import functools
import json

import numpy as np
import pytest
from reference_pack import pack
from safetensors.numpy import save_file
from tiny_weights import (
    TINY,
    assert_bit_equal,
    bare_vit,
    deit_state,
    dino_teacher,
    folder,
    from_vit,
    mae_state,
    moco_state,
    random_params,
    transformers_vit,
    write,
)

from yolos_jax.errors import InputError
from yolos_jax.weights import load_weights
from yolos_jax.weights.backbone import find_backbone
from yolos_jax.weights.source import read_source


def mae_with(**extra):
    return mae_state() | extra


FULL = {f"teacher.{name}": array for name, array in dino_teacher().items()} | {
    f"student.module.{name}": array + 1 for name, array in dino_teacher().items()
}


@functools.cache
def plain():
    return from_vit(bare_vit(), TINY)[0]


@pytest.mark.parametrize(
    ("state", "note"),
    [
        (bare_vit(), None),
        (dino_teacher(), "prefix 'backbone.'"),
        (FULL, "prefix 'teacher.backbone.'"),
        ({f"module.{name}": array for name, array in bare_vit().items()}, "prefix 'module.'"),
        (moco_state(), "prefix 'module.base_encoder.'"),
        (mae_state(), None),
    ],
)
def test_uses_only_backbone(tmp_path, state, note):
    path = write(tmp_path / "vit.safetensors", state)
    assert read_source(path).kind == "deit"
    _, params, _, report, *_ = load_weights(path, TINY)
    assert_bit_equal(params, plain())
    assert set(report.taken) | set(report.ignored) == set(state) and not set(report.taken) & set(report.ignored)
    assert len(report.taken) == len(bare_vit())
    assert note is None or note in str(report)


def test_choice_between_two_networks():
    """Uses the teacher and the base encoder; the other network's values are larger by one."""
    for state, name in ((moco_state(), "norm.bias"), (FULL, "blocks.0.attn.qkv.weight")):
        np.testing.assert_array_equal(find_backbone(state, "x").state[name], bare_vit()[name])
    two = {f"{side}.{name}": array for side in ("left", "right") for name, array in bare_vit().items()}
    with pytest.raises(InputError, match=r"x contains 2 vision transformers \(prefixes 'left\.', 'right\.'\)"):
        find_backbone(two, "x")


def test_initialises_missing_norm():
    """MAE models that are fine-tuned with average pooling normalise only the pooled tokens."""
    state = mae_state(finetuned=True)
    params, report = from_vit(state, TINY)
    np.testing.assert_array_equal(params["norm"]["scale"], np.ones(TINY.width))
    np.testing.assert_array_equal(params["norm"]["bias"], np.zeros(TINY.width))
    assert {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"} == set(report.ignored)
    assert {"backbone.norm.weight", "backbone.norm.bias"} <= set(report.initialised)
    assert "no norm after the last block; a new one is initialised with scale 1 and bias 0." in str(report)
    assert_bit_equal(params | {"norm": plain()["norm"]}, plain())


@pytest.mark.parametrize("side", [3, 4, 7, 14, 24, 28])
def test_resizes_grids(side):
    params, report = from_vit(bare_vit(side=side), TINY)
    assert f"the {side}x{side} grid is resized to 3x5" in str(report)
    assert params["pos_embed"]["grid"].shape == (3, 5, TINY.width)
    assert_bit_equal(params | {"pos_embed": None}, plain() | {"pos_embed": None})


@pytest.mark.parametrize("distilled", [False, True])
def test_transformers_names(tmp_path, distilled):
    state = transformers_vit(distilled=distilled)
    path = folder(tmp_path / "hf", {"model_type": "deit" if distilled else "vit", "num_attention_heads": 2}, state)
    _, params, names, report, *_ = load_weights(path, TINY)
    assert_bit_equal(params, from_vit(deit_state(distilled=distilled), TINY)[0])
    assert names is None
    assert set(report.taken) | set(report.ignored) == set(state)
    heads = {name for name in state if "classifier" in name or "distillation_token" in name}
    assert set(report.ignored) == heads and len(heads) == (5 if distilled else 2)
    bare = {name.split(".", 1)[1]: array for name, array in state.items() if "classifier" not in name}
    pooled = bare | {"pooler.dense.weight": np.zeros((12, 12), np.float32)}  # as in ViTModel, without a prefix
    assert_bit_equal(from_vit(pooled, TINY)[0], params)


def test_transformers_names_match_name_map():
    """Uses the names of one block in the reference's name map, and checks the order of query, key and value."""
    rows = [line.split("\t") for line in pack("names_map.txt").read_text().splitlines() if not line.startswith("#")]
    theirs = [(ours, name.replace("{i}", "0"), part) for ours, name, part in rows if "{i}" in name]
    state = {name: np.full((2, 2), i, np.float32) for i, (_, name, _) in enumerate(theirs)}
    state["vit.embeddings.patch_embeddings.projection.weight"] = np.zeros((1, 1), np.float32)
    found = find_backbone(state, "x").state
    for ours in {ours for ours, _, _ in theirs}:
        parts = [i for i, (name, _, part) in enumerate(theirs) if name == ours]
        parts.sort(key=lambda i: theirs[i][2] != "rows 0:D" and (theirs[i][2] == "rows 2D:3D") + 1)
        name = ours.removeprefix("backbone.").replace("{i}", "0")
        np.testing.assert_array_equal(found[name][::2, 0], parts)


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (mae_with(pos_embed=mae_state()["pos_embed"][:, 1:]), r"pos_embed of x has shape \[1, 16, 12\]; without the"),
        ({k: v for k, v in mae_state().items() if k != "pos_embed"}, r"1 missing \(pos_embed\)"),
        (mae_with(**{"blocks.0.odd.weight": np.zeros(12)}), r"1 unexpected \(blocks\.0\.odd\.weight\)"),
        (mae_with(**{"patch_embed.proj.weight": np.zeros((12, 3, 16, 16))}), "patches of 16x16 .*model has 8x8"),
        (
            {k: v for k, v in mae_state().items() if k != "patch_embed.proj.bias"},
            r"1 missing \(patch_embed\.proj\.bias",
        ),
        (
            {k: v for k, v in transformers_vit().items() if "layer.1.attention.attention.key.bias" not in k},
            r"x lacks a query, key or value tensor, .* vit\.encoder\.layer\.1\.attention\.attention\.query\.bias",
        ),
        (
            transformers_vit() | {"vit.layers.0.mlp.fc1.bias": np.zeros(24, np.float32)},
            r"contains both vit\.encoder\.layer\.0\.intermediate\.dense\.bias and vit\.layers\.0\.mlp\.fc1\.bias",
        ),
    ],
)
def test_rejects_unsupported_state_dicts(state, sentence):
    with pytest.raises(InputError, match=sentence):
        from_vit(state, TINY)


def test_ignores_batch_counters(tmp_path):
    """BatchNorm in the predictor of MoCo v3 has an int64 batch counter."""
    count = {"module.predictor.1.num_batches_tracked": np.array(9)}
    save_file(moco_state() | count, tmp_path / "vit.safetensors")
    _, params, _, report, *_ = load_weights(tmp_path / "vit.safetensors", TINY)
    assert_bit_equal(params, plain())
    assert set(count) < set(report.ignored)
    save_file(bare_vit() | {"norm.weight": np.array(9)}, tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match=r"norm\.weight has shape \[\], expected \[12\]"):
        load_weights(tmp_path / "odd.safetensors", TINY)


def test_rejects_unsupported_folders(tmp_path):
    path = folder(tmp_path / "a", {"model_type": "yolos"}, transformers_vit())
    with pytest.raises(InputError, match="model_type 'yolos', but none of its tensors belongs to"):
        load_weights(path, TINY)
    (path / "config.json").write_text(json.dumps({"model_type": "dinov2"}))
    with pytest.raises(InputError, match=r"model_type 'dinov2', not 'yolos' \(or vit, deit, vit_mae for a ViT"):
        load_weights(path, TINY)
    no_bias = {k: v for k, v in bare_vit().items() if k != "patch_embed.proj.bias"}
    with pytest.raises(InputError, match="patch embedding of .* has no bias"):
        load_weights(write(tmp_path / "b.safetensors", no_bias))


@pytest.mark.parity
@pytest.mark.parametrize(
    "name", ["ViTForImageClassification", "ViTModel", "DeiTForImageClassificationWithTeacher", "ViTMAEForPreTraining"]
)
def test_transformers_folders(tmp_path, name):
    """Loads folders written by `save_pretrained`, and state dicts of models in memory."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (parity extra)")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (parity extra)")
    model_class = getattr(transformers, name)
    decoder = {"decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    settings = model_class.config_class(
        hidden_size=12,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        patch_size=8,
        image_size=32,
        **(decoder if "MAE" in name else {}),
    )
    model = model_class(settings)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.normal_()
    model.save_pretrained(tmp_path / "hf")
    _, params, _, report, *_ = load_weights(tmp_path / "hf", TINY)
    inner = getattr(model, model.base_model_prefix, model)
    block, last = inner.layers[0], inner.layers[-1]
    parts = [getattr(block.attention, f"{letter}_proj").weight.detach().numpy().T for letter in "qkv"]
    np.testing.assert_array_equal(params["blocks"]["attn"]["qkv"]["kernel"][0], np.concatenate(parts, axis=1))
    np.testing.assert_array_equal(params["last_block"]["mlp"]["fc2"]["bias"], last.mlp.fc2.bias.detach().numpy())
    np.testing.assert_array_equal(params["norm"]["scale"], inner.layernorm.weight.detach().numpy())
    positions = inner.embeddings.position_embeddings.detach().numpy()[0]
    distilled = "DeiT" in name
    np.testing.assert_array_equal(params["pos_embed"]["cls"][0], positions[int(distilled)])
    assert bool(distilled) == ("row 1 is the position of CLS" in str(report))

    torch.save(model.state_dict(), tmp_path / "memory.pth")
    assert_bit_equal(load_weights(tmp_path / "memory.pth", TINY)[1], params)
    assert params["blocks"]["norm1"]["bias"].shape == random_params(TINY)["blocks"]["norm1"]["bias"].shape
