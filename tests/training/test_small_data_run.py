"""Runs with all settings for small data sets: they resume exactly, and the settings have an effect."""

import jax
import numpy as np
import pytest
from compiled_once import compiled_once
from made_coco import box, make_coco
from micro_run import SIZES, assert_equal_trees, lines, micro_config

from yolos_jax.config.recipes import DetectionConfig
from yolos_jax.distributed.mesh import data_mesh
from yolos_jax.errors import InputError
from yolos_jax.tasks import recipe
from yolos_jax.tasks.detection import DetectionTask, train
from yolos_jax.training import checkpoint_files
from yolos_jax.weights import checkpoints

ONE = jax.devices()[:1]
SMALL_DATA = {
    "data.augment": "aerial", "data.repeat_threshold": 0.95, "loss.class_weight": "inverse", "data.buckets": 0,
    "train.least_steps": 9, "train.ema": 0.25, "train.patience": 9, "optimizer.schedule": "step",
    "optimizer.warmup_steps": 2, "eval.every_epochs": 1, "eval.least_steps": 4,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def programs():
    with compiled_once():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten images; one of them has a box of a different class."""
    boxes = [box(i, i, [4, 4, 20, 10], category=7 if i == 3 else 1) for i in range(1, 11)]
    return make_coco(tmp_path_factory.mktemp("data"), SIZES, annotations=boxes)


def params_of(folder):
    shapes = checkpoints.load_detector(folder)[0]
    (step, *_) = checkpoint_files.steps(folder)[::-1]
    return checkpoint_files.read_arrays(folder, step, params=shapes, ema=shapes)


@pytest.mark.timeout(240)
def test_resumed_run_matches_an_uninterrupted_one(data, tmp_path, capsys):
    """The run resumes in the middle of an epoch, with a worker process."""
    whole = train(micro_config(data, **SMALL_DATA), tmp_path / "whole", devices=ONE)
    assert "note: with data.repeat_threshold, an epoch has" in capsys.readouterr().out
    stop = whole.step // 2 + 1
    train(micro_config(data, **SMALL_DATA, **{"train.max_steps": stop}), tmp_path / "parts", devices=ONE)
    train(micro_config(data, **SMALL_DATA, **{"data.workers": 1}), tmp_path / "parts", devices=ONE)
    assert_equal_trees(params_of(tmp_path / "parts"), params_of(tmp_path / "whole"))
    kept = ("step", "total", "val/AP", "val/loss", "val_raw/AP")
    found = [[{key: line.get(key) for key in kept} for line in lines(tmp_path / name)] for name in ("whole", "parts")]
    at_the_stop = [line for line in found[1] if line["step"] == stop and line["total"] is None]
    assert len(at_the_stop) == 2  # a run that ends at train.max_steps evaluates the average and the parameters
    assert found[0] == [line for line in found[1] if line not in at_the_stop]
    assert [line["step"] for line in found[0] if line["val/loss"] is not None] == [4, 8, whole.step]
    with pytest.raises(InputError, match="data.augment aerial vs. light"):
        train(micro_config(data, **SMALL_DATA | {"data.augment": "light"}), tmp_path / "whole", devices=ONE)


def test_task_applies_the_settings(data):
    config = recipe.prepare(micro_config(data, **SMALL_DATA), DetectionConfig)
    task = DetectionTask(config, data_mesh(ONE))
    labels = task.source.examples.labels
    images = [set(task.source.examples[i].labels.tolist()) for i in range(10)]
    share = {c: sum(c in own for own in images) / 10 for c in set(labels.tolist())}
    factors = [max(1, *((0.95 / share[c]) ** 0.5 for c in own)) for own in images]
    assert task.plan.images == sum(map(int, factors)) + int(sum(f % 1 for f in factors) + 1e-3) > 10
    assert task.steps == -(-9 // (task.plan.images // 4)) * (task.plan.images // 4)
    counts = np.bincount(labels, minlength=10)
    mean = counts[counts > 0].mean()
    want = [min(max(mean / n, 0.1), 10) if n else 1 for n in counts]
    np.testing.assert_allclose(task.weights.class_weight, want)
    assert {"vertical_flip", "hue"} <= {operation.name for operation in task.plan.pipeline.operations}


def test_class_weights_change_the_loss_and_must_match_the_classes(data, tmp_path):
    """After one step with the same weights and images, the cross entropy differs, but the box terms do not."""
    first = {}
    for name, weight in (("none", "none"), ("numbers", (3.0, 0.5, *[1.0] * 8)), ("ones", (1.0,) * 10)):
        config = micro_config(data, **{"train.max_steps": 1})
        config.loss.class_weight = weight
        train(config, tmp_path / name, devices=ONE)
        first[name] = lines(tmp_path / name)[0]
    assert first["none"]["ce"] == pytest.approx(first["ones"]["ce"], rel=1e-6) != first["numbers"]["ce"]
    assert first["none"]["bbox"] == first["numbers"]["bbox"] and first["none"]["giou"] == first["numbers"]["giou"]
    config = micro_config(data)
    config.loss.class_weight = (1.0, 2.0)
    with pytest.raises(InputError, match="loss.class_weight has 2 number.* has 10 classes"):
        train(config, tmp_path / "short", devices=ONE)
