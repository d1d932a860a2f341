"""Tests reading and writing Hugging Face folders, including bit-equal round trips."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from reference_pack import arrays, micro_config, pack, tensors
from safetensors.numpy import load_file, save_file
from tiny_weights import TINY, assert_bit_equal, huggingface_folder, random_params

from yolos_jax.errors import InputError
from yolos_jax.images.sequence import pack as pack_batch
from yolos_jax.model.config import Compute
from yolos_jax.model.yolos import abstract, apply
from yolos_jax.weights import export_huggingface, load_weights
from yolos_jax.weights.huggingface import from_huggingface, to_huggingface
from yolos_jax.weights.huggingface_config import read_config, write_config
from yolos_jax.weights.reference import from_reference
from yolos_jax.weights.source import read_source

MID = "vit.encoder.interpolation.mid_position_embeddings"


@pytest.fixture
def packed_folder(tmp_path):
    folder = tmp_path / "hf"
    folder.mkdir()
    shutil.copy(pack("hf_config.json"), folder / "config.json")
    shutil.copy(pack("hf_model.safetensors"), folder / "model.safetensors")
    return folder


def test_packed_model_equals_reference_model(packed_folder):
    config, params, names, report, *_ = load_weights(packed_folder)
    assert config.differences(micro_config("mid")) == []
    assert_bit_equal(params, from_reference(tensors("model_mid.safetensors"), config))
    assert list(names) == list(range(config.num_classes))
    assert set(report.taken) == set(tensors("hf_model.safetensors"))
    assert not report.initialised and not report.ignored


def test_packed_model_round_trip_is_bit_equal(packed_folder, tmp_path):
    config, params, names, _, *_ = load_weights(packed_folder)
    export_huggingface(params, config, names, tmp_path / "out")
    assert_bit_equal(load_file(tmp_path / "out" / "model.safetensors"), load_file(packed_folder / "model.safetensors"))
    ours = json.loads((tmp_path / "out" / "config.json").read_text())
    theirs = json.loads((packed_folder / "config.json").read_text())
    assert {key: theirs[key] for key in ours if key in theirs} == {key: ours[key] for key in ours if key in theirs}
    assert ours.keys() - theirs.keys() <= {"dtype"}
    assert_bit_equal(load_weights(tmp_path / "out")[1], params)


def test_model_matches_stored_outputs(packed_folder):
    """Compares all stored outputs. Hugging Face always resizes position embeddings, as yolos-jax does by default."""
    config, params, *_ = load_weights(packed_folder)
    z = arrays("hf_model.npz")
    images = [z[f"in{i}"].transpose(1, 2, 0) for i in range(len(z["sizes_hw"]))]
    p = config.patch_size
    tokens = max(image.shape[0] * image.shape[1] // p**2 for image in images)
    batch = pack_batch(images, tokens, len(images), p, Compute.max_side)
    graph, _ = abstract(config)
    out = jax.jit(lambda *args: apply(graph, *args))(params, batch.patches, batch.grid)
    for i in range(len(images)):
        assert np.abs(out.logits[i] - z[f"logits{i}"]).max() <= 1e-4
        assert np.abs(out.boxes[i] - z[f"pred_boxes{i}"]).max() <= 1e-5


@pytest.mark.parametrize("changes", [{}, {"mid_pe_size": None}, {"init_pe_size": (29, 41), "mid_pe_size": (29, 41)}])
def test_export_round_trip_is_bit_equal(tmp_path, changes):
    config = dataclasses.replace(TINY, **changes)
    params = random_params(config)
    export_huggingface(params, config, {0: "cat", 3: "dog"}, tmp_path / "out")
    found, back, names, _, *_ = load_weights(tmp_path / "out")
    assert_bit_equal(back, params)
    assert names == {0: "cat", 3: "dog"}
    assert (found.init_grid, found.mid_grid) == (config.init_grid, config.mid_grid)
    whole = dataclasses.replace(found, init_pe_size=config.init_pe_size, mid_pe_size=config.mid_pe_size)
    assert whole == config


def test_exported_image_size_keeps_grid():
    """transformers computes the number of mid-layer positions from the area: 4165 for 800x1333, not 50 x 83."""
    config = dataclasses.replace(TINY, init_pe_size=(29, 41), mid_pe_size=(29, 41))
    height, width = write_config(config, None)["image_size"]
    assert height * width // config.patch_size**2 == config.mid_grid[0] * config.mid_grid[1]
    plain = dataclasses.replace(config, mid_pe_size=None)
    assert write_config(plain, None)["image_size"] == [29, 41]


def test_loads_names_of_published_files(tmp_path):
    """Published files, and files written by `save_pretrained`, have a different name for the mid-layer positions."""
    folder = huggingface_folder(tmp_path / "hf")
    state = load_file(folder / "model.safetensors")
    state["vit.encoder.mid_position_embeddings"] = state.pop(MID)
    save_file(state, folder / "model.safetensors")
    config, params, _, report, *_ = load_weights(folder)
    assert_bit_equal(params, random_params(TINY))
    assert "vit.encoder.mid_position_embeddings" in report.taken
    assert MID in to_huggingface(params, config)
    both = state | {MID: state["vit.encoder.mid_position_embeddings"]}
    with pytest.raises(InputError, match=r"1 unexpected \(vit\.encoder\.mid_position_embeddings\)"):
        from_huggingface(both, TINY)


def test_sharded_folder(tmp_path):
    folder = huggingface_folder(tmp_path / "hf")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = list(state)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, part in shards.items():
        save_file({name: state[name] for name in part}, folder / shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: shard for shard, part in shards.items() for name in part}}))
    assert_bit_equal(load_weights(folder)[1], random_params(TINY))

    (folder / "model-2.safetensors").unlink()
    with pytest.raises(InputError, match=r"names the shard 'model-2\.safetensors'"):
        load_weights(folder)
    save_file({name: state[name] for name in names[3::2]}, folder / "model-2.safetensors")
    with pytest.raises(InputError, match=f"model-2.safetensors lacks {names[1]}"):
        load_weights(folder)
    index.write_text(json.dumps({"weight_map": {names[0]: "../model-1.safetensors"}}))
    with pytest.raises(InputError, match="not in the folder"):
        load_weights(folder)
    index.write_text("{}")
    with pytest.raises(InputError, match="no weight_map"):
        load_weights(folder)


def test_omitted_settings_use_transformers_defaults():
    config, names = read_config({"model_type": "yolos"}, "config.json")
    assert (config.width, config.depth, config.heads, config.mlp_width) == (768, 12, 12, 3072)
    assert config.init_pe_size == config.mid_pe_size == (512, 864)
    assert config.layer_norm_eps == 1e-12
    assert names == {0: "LABEL_0", 1: "LABEL_1"}


def test_mlp_width_is_exact():
    for hidden, inner in ((330, 1320), (48, 100), (49, 147), (7, 3), (12, 35), (330, 1319)):
        config, _ = read_config({"hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": 1}, "c")
        assert config.mlp_width == inner


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "detr"}, "model_type 'detr', not 'yolos'"),
        ({"model_type": None}, "model_type None, not 'yolos'"),
        ({"hidden_act": "relu"}, "hidden_act to 'relu'; only 'gelu'"),
        ({"qkv_bias": False}, "qkv_bias to False"),
        ({"num_channels": 1}, "num_channels to 1"),
        ({"hidden_size": "wide"}, "not a usable YOLOS configuration"),
        ({"image_size": [64]}, "not a usable YOLOS configuration"),
        ({"patch_size": [8, 16]}, "patch_size is not square"),
        ({"id2label": {"0": "cat", "2": "dog"}}, r"2 ids are not 0\.\.1"),
        ({"id2label": ["cat"]}, "does not map numbers to names"),
        ({"id2label": {"0": "cat", "1": "dog"}}, r"has 2 labels.*3 outputs.*has shape \[5, 12\]"),
        (
            {"num_hidden_layers": 4},
            r"mid_position_embeddings has shape \[2, .* expected \[3, .*missing \(vit\.encoder\.layer\.3\.",
        ),
        ({"num_detection_tokens": 6}, r"detection_tokens has shape \[1, 5, 12\], expected \[1, 6, 12\]"),
        ({"use_mid_position_embeddings": False}, r"1 unexpected \(vit\.encoder\.interpolation"),
    ],
)
def test_rejects_invalid_folders(tmp_path, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        load_weights(huggingface_folder(tmp_path / "hf", **changes))


def test_compares_expected_config_with_folder(tmp_path):
    folder = huggingface_folder(tmp_path / "hf")
    assert load_weights(folder, TINY)[0] == TINY
    with pytest.raises(InputError, match=r"width 24 vs. 12\."):
        load_weights(folder, dataclasses.replace(TINY, width=24, layer_norm_eps=0.1))
    # A different epsilon is not an error; the folder's value is used.
    assert load_weights(folder, dataclasses.replace(TINY, layer_norm_eps=0.1))[0] == TINY


def test_single_file_uses_config_in_same_folder(tmp_path):
    folder = huggingface_folder(tmp_path / "hf")
    assert load_weights(folder / "model.safetensors")[0] == TINY
    assert read_source(folder / "model.safetensors").hf_config == read_source(folder).hf_config
    alone = tmp_path / "alone.safetensors"
    shutil.copy(folder / "model.safetensors", alone)
    with pytest.raises(InputError, match=r"no config\.json next to it"):
        load_weights(alone)
    config, params, names, _, *_ = load_weights(alone, TINY)
    assert config == TINY and names is None
    assert_bit_equal(params, random_params(TINY))


def test_rejects_incomplete_folders(tmp_path):
    with pytest.raises(InputError, match=r"has no config\.json"):
        load_weights(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        load_weights(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="not contain a JSON object"):
        load_weights(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "yolos"}')
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        load_weights(tmp_path)


def test_export_errors(tmp_path):
    params = random_params(TINY)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("")
    with pytest.raises(InputError, match="not an empty folder"):
        export_huggingface(params, TINY, None, tmp_path / "used")
    with pytest.raises(InputError, match="not an empty folder"):
        export_huggingface(params, TINY, None, tmp_path / "used" / "file")
    with pytest.raises(InputError, match="could not be written"):
        export_huggingface(params, TINY, None, tmp_path / "used" / "file" / "below")
    with pytest.raises(InputError, match=r"label ids \[4\] are outside"):
        export_huggingface(params, TINY, {4: "cat"}, tmp_path / "new")
    other = dataclasses.replace(TINY, mid_pe_size=(40, 24))
    with pytest.raises(InputError, match=r"one image_size .* \(3, 5\) .* \(5, 3\)"):
        export_huggingface(random_params(other), other, None, tmp_path / "new")
    assert not (tmp_path / "new").exists()
