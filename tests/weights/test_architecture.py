"""Tests that the architecture of a detector is inferred from the names and shapes of starting weights."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny_weights import TINY, deit_state, folder, huggingface_folder, random_params, transformers_vit, write

from yolos_jax.config.reader import read_recipe, stated_architecture
from yolos_jax.config.recipes import ARCHITECTURE, DetectionConfig, detection_recipe
from yolos_jax.distributed.processes import Processes
from yolos_jax.errors import InputError
from yolos_jax.model.classifier import abstract_classifier
from yolos_jax.model.classifier_config import ClassifierConfig
from yolos_jax.model.config import VARIANTS, YolosConfig
from yolos_jax.tasks import architecture
from yolos_jax.tasks.architecture import settle
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.weights import checkpoints, source
from yolos_jax.weights.architecture import architecture_of, title_of
from yolos_jax.weights.limits import hollow
from yolos_jax.weights.tensor_names import reference_shapes, vit_shapes

WANTED = {name: value for name, value in TINY.to_dict().items() if name != "num_classes"}
VIT = {"model_type": "vit", "hidden_size": 12, "num_attention_heads": 2, "layer_norm_eps": 1e-12}


def test_detector_determines_all_settings(tmp_path):
    checkpoints.save(tmp_path / "ours", 5, random_params(TINY), Meta(TINY, {1: "a"}, 5))
    assert architecture_of(str(tmp_path / "ours"), {}) == WANTED
    hf = huggingface_folder(tmp_path / "hf", layer_norm_eps=1e-12)
    assert architecture_of(str(hf), {}) == WANTED | {"layer_norm_eps": 1e-12}
    assert architecture_of(str(hf), {"layer_norm_eps": 1e-6}) == WANTED
    with pytest.raises(InputError, match=r"24 instead of 12; model.init_pe_size is \(8, 8\) instead of \(24, 40\)"):
        architecture_of(str(hf), {"width": 24, "init_pe_size": (8, 8), "depth": 3})


@pytest.mark.parametrize("name", VARIANTS)
def test_infers_variants_from_shapes(name, monkeypatch):
    """Tests state dicts of the reference and of a DeiT, with arrays that use no memory."""
    known = VARIANTS[name].to_dict()
    del known["num_classes"]
    for shapes in (reference_shapes(VARIANTS[name]), vit_shapes(VARIANTS[name]) | {"pos_embed": (1, 197, 9)}):
        tensors = source.Tensors({key: hollow(shape) for key, shape in shapes.items()})
        monkeypatch.setattr(source, "read_tensors", lambda path, shapes, found=tensors: found if shapes else 1 / 0)
        monkeypatch.setattr(source, "_find", lambda path: (source.Path(__file__), "x"))
        assert architecture_of("x", {}) == known
    assert title_of(YolosConfig(**known)) == {"ti": "Ti", "s": "S", "s_dwr": "S (dWr)", "b": "B"}[name]


def test_vit_determines_shared_settings(tmp_path):
    path = str(write(tmp_path / "deit.safetensors", deit_state()))
    with pytest.raises(InputError, match="number of attention heads cannot .*width 12 and 3 blocks; set --config"):
        architecture_of(path, {})
    sizes = {"width": 12, "depth": 3, "mlp_ratio": 2.0, "patch_size": 8, "heads": 2}
    assert architecture_of(path, {"heads": 2, "det_tokens": 9}) == sizes | {"det_tokens": 9}
    hub = str(folder(tmp_path / "vit", VIT, transformers_vit()))
    assert architecture_of(hub, {}) == sizes | {"layer_norm_eps": 1e-12}
    with pytest.raises(InputError, match="model.heads is 3 instead of 2"):
        architecture_of(hub, {"heads": 3})
    broken = str(folder(tmp_path / "broken", VIT | {"num_attention_heads": "two"}, transformers_vit()))
    with pytest.raises(InputError, match="num_attention_heads to 'two'"):
        architecture_of(broken, {})
    settings = ClassifierConfig(12, 3, 2, 2.0, 8, 4, 32)
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), abstract_classifier(settings)[1])
    checkpoints.save(tmp_path / "ours", 1, params, Meta(settings, {0: "a"}, 1))
    assert architecture_of(str(tmp_path / "ours"), {}) == sizes | {"layer_norm_eps": 1e-6}


def test_reads_no_tensor_values(tmp_path, monkeypatch):
    """With `shapes`, non-finite values are not detected, and arrays use no memory. PyTorch files are also supported."""
    state = {name: np.full_like(array, np.nan) for name, array in transformers_vit().items()}
    folder(tmp_path / "vit", VIT, state)
    with pytest.raises(InputError, match="not finite"):
        source.read_source(tmp_path / "vit")
    found = source.read_source(tmp_path / "vit", shapes=True).state
    assert {name: array.shape for name, array in found.items()} == {name: a.shape for name, a in state.items()}
    assert all(array.strides == (0,) * array.ndim for array in found.values())
    torch = pytest.importorskip("torch")
    for zipped in (True, False):
        path = tmp_path / f"{zipped}.pth"
        tensors = {name: torch.from_numpy(array) for name, array in deit_state().items()}
        torch.save({"model": tensors}, path, _use_new_zipfile_serialization=zipped)
        assert architecture_of(str(path), {"heads": 2})["width"] == 12


@pytest.fixture
def hub(tmp_path):
    return huggingface_folder(tmp_path / "hf")


def test_recipe_uses_architecture_of_weights(hub, capsys):
    recipe = detection_recipe("s", from_init=True)
    assert stated_architecture(recipe) == ()
    small = VARIANTS["s"].to_dict()
    del small["num_classes"]
    assert {name: getattr(read_recipe(recipe, DetectionConfig).model, name) for name in ARCHITECTURE} == small
    with pytest.raises(InputError, match="requires starting weights; use --config.init=.*--config.init=from_nothing"):
        settle(recipe)
    recipe.init = "from_nothing"
    assert settle(recipe) == read_recipe(recipe, DetectionConfig)
    recipe.init = str(hub)
    recipe.model.update(attention="blocks", max_side=20, num_classes=9)
    model = settle(recipe).model
    assert {name: getattr(model, name) for name in ARCHITECTURE} == WANTED
    assert (model.attention, model.max_side, model.num_classes) == ("blocks", 20, 9)
    said = f"model: 3 blocks of width 12, 2 heads, patch size 8, from the weights {hub}"
    assert capsys.readouterr().out.strip() == said
    recipe.model.width = 384  # also the width of S, but set explicitly
    with pytest.raises(InputError, match="model.width is 384 instead of 12"):
        settle(recipe)
    typed = dataclasses.replace(read_recipe(recipe, DetectionConfig).model, depth=5)
    with pytest.raises(InputError, match="model.depth is 5 instead of 3"):
        settle(dataclasses.replace(read_recipe(recipe, DetectionConfig), model=typed))


def test_recipe_with_architecture_is_unchanged(hub):
    recipe = detection_recipe("s")
    recipe.init = str(hub)
    assert settle(recipe) == read_recipe(recipe, DetectionConfig)


def test_other_processes_need_no_weights(hub, monkeypatch):
    """The second of two processes uses the result of the first, sent as JSON, and reads no weights."""

    class Second(Processes):
        is_primary = False

        def agree(self, work, *args):
            return work(*args)

        def allgather(self, value):
            return [json.loads(json.dumps(WANTED)), value]

    recipe = detection_recipe("s", from_init=True)
    recipe.init = str(hub)
    first = settle(recipe)
    recipe.init = "/nowhere"
    monkeypatch.setattr(architecture, "Processes", Second)
    assert settle(recipe).model == first.model
