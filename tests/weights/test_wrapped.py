"""Tests third-party weights: wrapper prefixes in tensor names, image processors and label names."""

import numpy as np
import pytest
from micro_run import assert_equal_trees
from tiny_weights import TINY, huggingface_folder, random_params, reference_state, write

from yolos_jax.errors import InputError
from yolos_jax.model.yolos import build
from yolos_jax.weights import load_weights
from yolos_jax.weights.huggingface import to_huggingface
from yolos_jax.weights.image_processor import Sizes, read_processor
from yolos_jax.weights.starting import starting_params


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "module._orig_mod.", "model.model."])
@pytest.mark.parametrize("kind", ["reference", "huggingface"])
def test_removes_prefixes_with_note(tmp_path, prefix, kind):
    state = reference_state() if kind == "reference" else to_huggingface(random_params(TINY), TINY)
    wrapped = {f"{prefix}{name}": array for name, array in state.items()} | {"criterion.weight": np.ones(3, np.float32)}
    loaded = load_weights(write(tmp_path / "w.safetensors", wrapped), TINY)
    assert_equal_trees(loaded.params, random_params(TINY))
    note = f"removed the prefix {prefix!r} from the names; tensors without it are ignored: 1."
    assert note in loaded.report.notes


@pytest.mark.parity
def test_reads_lightning_checkpoints(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (parity extra)")
    state = {f"model.{n}": torch.from_numpy(a) for n, a in to_huggingface(random_params(TINY), TINY).items()}
    path = tmp_path / "epoch=9.ckpt"
    torch.save({"state_dict": state, "epoch": 9, "pytorch-lightning_version": "2.0", "callbacks": {}}, path)
    assert_equal_trees(load_weights(path, TINY).params, random_params(TINY))


def test_processors_with_maximum_height_and_width():
    assert read_processor({"size": {"max_height": 640, "max_width": 640}}, "f") == Sizes(640, 640)
    with pytest.raises(InputError, match="max_height and max_width must be equal"):
        read_processor({"size": {"max_height": 800, "max_width": 1333}}, "f")


def test_rejects_label_names_numbered_from_1(tmp_path):
    labels = {str(i): f"name{i}" for i in range(1, 5)}
    with pytest.raises(InputError, match=r"ids 1\.\.4, .* has the outputs 0\.\.3 .*, number the names"):
        load_weights(huggingface_folder(tmp_path / "made", id2label=labels))


@pytest.fixture
def named(tmp_path):
    """The path of weights with four classes, and the last layer of their class head."""
    names = {"0": "cat", "1": "dog", "2": "cow", "3": "hen"}
    return str(huggingface_folder(tmp_path / "made", id2label=names)), random_params(TINY)["class_head"]["fc3"]


def last_layer(where, wanted, by_name=True):
    return starting_params(TINY, where, 0, wanted, by_name)["class_head"]["fc3"]


def test_matches_class_head_outputs_by_name(named, capsys):
    found = last_layer(named[0], {0: "Dog", 1: "cat", 2: "hen", 3: "cow"})
    assert "numbers the classes differently" in capsys.readouterr().out
    for key in found:
        np.testing.assert_array_equal(found[key], named[1][key][..., [1, 0, 3, 2, 4]])
    assert_equal_trees(last_layer(named[0], {0: "cat", 3: "hen"}), named[1])
    assert "classes" not in capsys.readouterr().out


def test_initialises_entirely_different_classes(named, capsys):
    """The number of classes is the same but all names differ; the output for "no object" is unchanged."""
    found, fresh = last_layer(named[0], dict(enumerate("abcd"))), build(TINY, 0)[1]["class_head"]["fc3"]
    assert "different classes" in capsys.readouterr().out
    for key in found:
        np.testing.assert_array_equal(found[key][..., :4], fresh[key][..., :4])
        np.testing.assert_array_equal(found[key][..., 4], named[1][key][..., 4])


def test_rejects_conflicting_names_by_default(named):
    for wanted in ({0: "cat", 1: "dog", 2: "bus", 3: "hen"}, {0: "Dog", 1: "cat", 2: "bus", 3: "hen"}):
        with pytest.raises(InputError) as error:
            last_layer(named[0], wanted)
        said = str(error.value)
        assert "0 cat, 1 dog, 2 cow, 3 hen and " + ", ".join(f"{i} {name}" for i, name in wanted.items()) in said
        assert "--config.data.names=ids" in said
        assert_equal_trees(last_layer(named[0], wanted, by_name=False), named[1])
