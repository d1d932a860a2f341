"""Pre-training end to end: runs, resuming, starting a detector, programs, recipes, bad input."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from compiled_once import compiled_once
from made_classes import CLASSES, classifier_config, make_classes
from micro_run import assert_equal_trees, lines, micro_config, micro_data

from yolos_jax.errors import InputError
from yolos_jax.inference.loading import load_model
from yolos_jax.model.classifier import classifier_params
from yolos_jax.model.classifier_config import CLASSIFIERS, ClassifierConfig
from yolos_jax.model.yolos import build
from yolos_jax.programs.command_line import load_recipe, recipe_files
from yolos_jax.tasks.classification.task import classifier_of, pretrain
from yolos_jax.tasks.detection import train
from yolos_jax.tasks.recipe import model_of
from yolos_jax.training import checkpoint_files
from yolos_jax.weights import checkpoints
from yolos_jax.weights.starting import starting_params

ONE = jax.devices()[:1]
RUN = {"train.epochs": 3, "train.max_steps": 6, "train.ema": 0.5, "train.curves": False}


@pytest.fixture(scope="module", autouse=True)
def programs():
    """Shares compiled programs between runs."""
    with compiled_once():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """About 1,000 images whose colour determines their class."""
    root = tmp_path_factory.mktemp("data")
    return make_classes(make_classes(root, "train", 300), "val", 34, classes=CLASSES[:3])


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The folder of a run of six steps with a moving average."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    pretrain(classifier_config(data, **RUN), folder, devices=ONE)
    return folder


def test_resumed_run_equals_uninterrupted_run(data, whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "run")
    for later in ("6", "best"):
        shutil.rmtree(tmp_path / "run" / later)
    config = classifier_config(data, **RUN)
    assert pretrain(config, tmp_path / "run", devices=ONE).step == 6
    assert "the checkpoint for step 3" in capsys.readouterr().out
    shapes = checkpoints.load_any(whole)[0]
    read = [checkpoint_files.read_arrays(f, 6, params=shapes, ema=shapes) for f in (whole, tmp_path / "run")]
    assert_equal_trees(*read)
    a, b = lines(whole), lines(tmp_path / "run")
    assert [line["loss"] for line in a if "loss" in line] == [line["loss"] for line in b if "loss" in line]
    assert [line["step"] for line in a if "val/top1" in line] == [6]


def test_pretraining_and_training_a_detector(data, tmp_path, capsys):
    """Pre-trains a classifier, then trains and evaluates a detector that starts from it."""
    config = classifier_config(data, **{"train.epochs": 3, "augment.repeats": 2, "train.ema": 0.5})
    outcome = pretrain(config, tmp_path / "deit", devices=ONE)
    assert outcome.step == 42 and outcome.compiled == (4,) and outcome.padding == 0
    found = lines(tmp_path / "deit")
    scores = [line["val/top1"] for line in found if "val/top1" in line]
    assert len(scores) == 3 and max(scores) > 0.9
    losses = [line["loss"] for line in found if "loss" in line]
    assert losses[0] > 0.9 * np.log(3) and losses[-1] < losses[0]
    printed = capsys.readouterr().out
    assert "training on 900 images of 3 classes, 1 device: 42 steps, 14 per epoch" in printed
    assert f"best top1 {max(scores):.4f}" in printed

    changes = {"init": str(tmp_path / "deit"), "eval.every_epochs": 2, "matcher": "host"}
    train(micro_config(micro_data(tmp_path / "coco"), **changes), tmp_path / "yolos", devices=ONE)
    printed = capsys.readouterr().out
    assert "deit weights from the checkpoint" in printed and "the 2x2 grid is resized to 4x4" in printed
    assert {"val/AP", "val/AP50"} <= lines(tmp_path / "yolos")[-1].keys()


def test_detector_starts_with_classifier_weights(whole, data, tmp_path):
    """The weights are the moving average, bit-identical except for heads, DET tokens and resized positions."""
    model = model_of(micro_config(data), 10)
    model = dataclasses.replace(model, init_pe_size=(32, 32))
    params, meta = checkpoints.load_any(whole)
    started, fresh = starting_params(model, str(whole), 3), build(model, 3)[1]
    for part in ("patch_embed", "cls_token", "blocks", "last_block", "norm"):
        assert_equal_trees(started[part], params[part])
    for part in ("cls", "grid"):
        np.testing.assert_array_equal(started["pos_embed"][part], params["pos_embed"][part])
    for part in ("class_head", "box_head", "det_tokens"):
        assert_equal_trees(started[part], fresh[part])
    assert meta.label_names == dict(enumerate(CLASSES))
    latest = checkpoint_files.read_arrays(whole, 6, params=params)["params"]  # the average lags behind these
    assert (params["head"]["kernel"] != latest["head"]["kernel"]).any()
    with pytest.raises(InputError, match="has 2 blocks of width 12, but the model has 3|do not match the model"):
        starting_params(dataclasses.replace(model, width=24), str(whole), 3)
    with pytest.raises(InputError, match="has 2 heads but the model has 3"):
        starting_params(dataclasses.replace(model, heads=3), str(whole), 3)
    with pytest.raises(InputError, match="contains an image classifier"):
        load_model(whole)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"model.width": 24}, "has a different model: width 12 vs. 24"),
        ({"augment.erase": 0.5}, "augment.erase 0.1 vs. 0.5"),
        ({"loss.smoothing": 0.0}, r"loss.smoothing 0.1 vs. 0.0"),
        (
            {"train.batch_size": 61},
            "train.batch_size 61 must be a multiple of 2 .*, times 2 because images are mixed in pairs",
        ),
        (
            {"train.batch_size": 8, "optimizer.rate_batch": 4096},
            "optimizer.learning_rate, scaled to the batch size, is 9.77e-06, below optimizer.min_lr 1e-05",
        ),
        ({"model.num_classes": 2}, "model.num_classes is 2 but .* has 3 classes; set it to 0"),
        (
            {"data.val_split": "test"},
            "the split test does not exist.*or train without evaluation: --config.eval.every_epochs=0 ",
        ),
        ({"data.root": "/nowhere"}, "the folder /nowhere does not exist; set --config.data.root"),
    ],
)
def test_errors(data, whole, changes, words):
    with pytest.raises(InputError, match=words):
        pretrain(classifier_config(data, **RUN | changes), whole, devices=ONE)


def test_starting_from_another_classifier(whole, data, tmp_path, capsys):
    from yolos_jax.tasks.classification.task import starting_classifier

    model = classifier_of(classifier_config(data), 5)
    params, kept = starting_classifier(model, str(whole), 0, "abcde"), checkpoints.load_any(whole)[0]
    assert params["head"]["bias"].shape == (5,) and "the head is reinitialised" in capsys.readouterr().out
    assert_equal_trees(params["blocks"], kept["blocks"])
    same = dataclasses.replace(model, num_classes=3)
    assert_equal_trees(starting_classifier(same, str(whole), 0, CLASSES), kept)
    other = starting_classifier(same, str(whole), 0, CLASSES[::-1])  # the same classes in a different order
    assert "the head is reinitialised" in capsys.readouterr().out
    assert_equal_trees(other["head"], classifier_params(same, 0)["head"])
    with pytest.raises(InputError, match="differs from the config: width 12 vs. 24"):
        starting_classifier(dataclasses.replace(model, width=24), str(whole), 0, "abcde")


def test_programs(whole, data, tmp_path, call):
    recipe = tmp_path / "micro.py"
    recipe.write_text(
        "from made_classes import classifier_config\n"
        f"get_config = lambda: classifier_config({str(data)!r}, **{RUN!r})\n"
    )
    done = call("pretrain.py", "--config", recipe, "--workdir", whole)
    assert done.returncode == 0 and "the run is complete" in done.stdout
    done = call("eval.py", "--config", recipe, "--checkpoint", whole, "--out", tmp_path / "numbers")
    numbers = json.loads((tmp_path / "numbers" / "metrics.json").read_text())
    assert done.returncode == 0 and numbers["images"] == 102 and f"top1 {numbers['top1']:.4f}" in done.stdout
    refused = call("train.py", "--config", recipe, "--workdir", whole)
    assert refused.returncode == 2 and "the recipe trains a classifier; use it with yolos-pretrain" in refused.stderr
    refused = call("pretrain.py", "--config=yolos_s", "--workdir", whole)
    assert refused.returncode == 2 and "the recipe trains a detector; use it with yolos-train" in refused.stderr
    texts = [call("eval.py", *words, "--help").stdout for words in ((), ("--config", recipe))]
    assert ["augment.mixup" in text for text in texts] == [False, True] == ["det_tokens" not in text for text in texts]
    done = call("convert.py", whole, "--to-hf", "--out", tmp_path / "hf")
    assert done.returncode == 0 and "timm.safetensors has timm's parameter names" in done.stdout
    logged = next(line for line in reversed(lines(whole)) if "val/top1" in line)
    assert f"model card: top1 {logged['val/top1']:.4f}, top5 1.0000" in done.stdout
    assert f"| top1 | {logged['val/top1']:.4f} |" in (tmp_path / "hf" / "README.md").read_text()
    settings = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert settings["id2label"] == {"0": "blue", "1": "green", "2": "red"} and settings["model_type"] == "vit"
    # A detector can also start from the exported folder.
    model = dataclasses.replace(model_of(micro_config(data), 10), init_pe_size=(32, 32))
    want = starting_params(model, str(whole), 0)
    for exported in (tmp_path / "hf", tmp_path / "hf" / "timm.safetensors"):
        assert_equal_trees(starting_params(model, str(exported), 0), want)


@pytest.mark.parametrize("name", ["deit_ti", "deit_s", "deit_b", "deit_s_dwr", "deit_s_compound"])
def test_deit_recipes(name):
    """The recipes have DeiT's hyperparameters (arXiv 2012.12877, table 9)."""
    config = load_recipe(name)
    compound = ClassifierConfig(width=240, depth=19, heads=6, image_size=272)
    assert classifier_of(config, 1000) == CLASSIFIERS.get(name.removeprefix("deit_"), compound)
    assert (config.train.epochs, config.train.batch_size, config.optimizer.name) == (300, 1024, "adamw")
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (1e-3, 0.05)
    assert (config.optimizer.warmup_epochs, config.loss.smoothing, config.model.drop_path) == (5, 0.1, 0.1)
    augment = config.augment
    assert (augment.mixup, augment.cutmix, augment.mix, augment.switch, augment.erase) == (0.8, 1.0, 1.0, 0.5, 0.25)
    assert (augment.magnitude, augment.deviation, augment.operations, augment.chance) == (9, 0.5, 2, 0.5)
    assert config.optimizer.clip_norm == 0
    assert f"--config {name} " in recipe_files()[name].read_text()
