"""Tests that the names, shapes and settings of the five published models determine the correct variant."""

import dataclasses
import json
import re

import numpy as np
import pytest
from reference_pack import pack
from safetensors.numpy import save_file
from tiny_weights import in_hub_cache, listed

from yolos_jax.errors import InputError
from yolos_jax.inference.loading import load_model
from yolos_jax.model.config import VARIANTS
from yolos_jax.weights import hub_model, variant_of
from yolos_jax.weights.huggingface_config import read_config
from yolos_jax.weights.reference import config_of_reference
from yolos_jax.weights.tensor_names import huggingface_shapes

# Reference file, hub repository, variant in yolos-jax, variant in names.txt, heads (paper, table 1 and appendix).
PUBLISHED = [
    ("yolos_ti", "yolos-tiny", "ti", "tiny", 3),
    ("yolos_s_200_pre", "yolos-small", "s", "small", 6),
    ("yolos_s_300_pre", "yolos-small-300", "s", "small", 6),
    ("yolos_s_dWr", "yolos-small-dwr", "s_dwr", "small_dWr", 6),
    ("yolos_base", "yolos-base", "b", "base", 12),
]
EVERY = pytest.mark.parametrize(("file", "repository", "ours", "theirs", "heads"), PUBLISHED)


def hollow(shapes):
    """Returns tensors that use no memory: a single repeated zero."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def published_config(theirs):
    """Returns a published config.json: the one in the pack, with the settings of the variant in hf_names.txt."""
    header = listed("hf_names.txt")[theirs][0]
    found = dict(re.findall(r"(\w+)=(\[[^\]]*\]|\w+)", header))
    values = json.loads(pack("hf_config.json").read_text()) | {"layer_norm_eps": 1e-12}
    for name, text in found.items():
        if name != "num_labels":
            values[name] = json.loads(text.lower())
    values["use_mid_position_embeddings"] = "use_mid_position_embeddings" not in found
    labels = {str(i): "N/A" if i in (0, 12) else f"thing {i}" for i in range(int(found["num_labels"]))}
    return values | {"id2label": labels, "label2id": {name: int(i) for i, name in labels.items()}}


@EVERY
def test_reference_file(file, repository, ours, theirs, heads):
    """A state dict with these shapes needs no --variant, regardless of its file name."""
    shapes = listed("names.txt")[theirs][1]
    config = config_of_reference(hollow(shapes), file)
    assert config == VARIANTS[ours] and config.heads == heads
    assert variant_of(file) == variant_of(repository) == variant_of(f"hustvl/{repository}") == config
    assert config.init_grid[0] * config.init_grid[1] + 101 == shapes["backbone.pos_embed"][1]
    assert (config.mid_grid is None) == ("backbone.mid_pos_embed" not in shapes)


@EVERY
def test_hub_repository(file, repository, ours, theirs, heads):
    """Compares the published settings with the published shapes."""
    assert (
        hub_model(file) == hub_model(repository) == hub_model(f"hustvl/{repository}") == (f"hustvl/{repository}", None)
    )
    config, names = read_config(published_config(theirs), "x")
    assert huggingface_shapes(config) == listed("hf_names.txt")[theirs][1]
    assert dataclasses.replace(config, layer_norm_eps=1e-6) == VARIANTS[ours]
    assert (config.heads, config.layer_norm_eps, config.num_classes) == (heads, 1e-12, 91)
    assert len(names) == 89 and 12 not in names


def test_shapes_match_only_one_variant():
    for name, (_, shapes) in listed("names.txt").items():
        fits = [ours for _, _, ours, theirs, _ in PUBLISHED if theirs == name]
        assert {ours for ours, config in VARIANTS.items() if config_of_reference(hollow(shapes), "x") == config} == {
            *fits
        }
        less = {key: shape for key, shape in shapes.items() if key != "backbone.norm.bias"}
        with pytest.raises(InputError, match="match none of the variants"):
            config_of_reference(hollow(less), "x")


def test_loads_yolos_tiny_from_cache(tmp_path, monkeypatch):
    """Loads hustvl/yolos-tiny at full size by its published name."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    made = tmp_path / "made"
    made.mkdir()
    rng = np.random.default_rng(0)
    shapes = listed("hf_names.txt")["tiny"][1]
    save_file({k: rng.random(shape, np.float32) for k, shape in shapes.items()}, made / "model.safetensors")
    (made / "config.json").write_text(json.dumps(published_config("tiny")))
    processor = {"size": {"shortest_edge": 512, "longest_edge": 1333}, "image_mean": [0.485, 0.456, 0.406]}
    (made / "preprocessor_config.json").write_text(json.dumps(processor))
    in_hub_cache(tmp_path / "cache", "hustvl/yolos-tiny", made, "d" * 40)
    params, meta = load_model("yolos_ti")
    assert dataclasses.replace(meta.model, layer_norm_eps=1e-6) == VARIANTS["ti"]
    assert meta.extra["processor"] == {"short_side": 512, "max_side": 1333}
    assert params["pos_embed"]["grid"].shape == (50, 83, 192)
    assert sum(array.size for array in _leaves(params)) == 6_488_736


def _leaves(tree):
    for value in tree.values():
        yield from _leaves(value) if isinstance(value, dict) else (value,)
