"""Trains for two steps, evaluates and predicts on data in every layout."""

import jax
import made_layouts
import numpy as np
import pytest
from compiled_once import PROGRAMS, compiled_once
from made_layouts import LAYOUTS
from micro_run import lines, micro_config

from yolos_jax import Detector
from yolos_jax.datasets.voc_metrics import MEANING
from yolos_jax.evaluation.coco_metrics import NAMES, table
from yolos_jax.tasks.detection import train

SPLITS = {"data.train_split": "train", "data.val_split": "val", "data.categories": "contiguous"}
RUN = {"train.epochs": 1, "eval.every_epochs": 1, "checkpoint.every_steps": 2, "model.num_classes": 3}
DATASETS = [pytest.param(kind, marks=pytest.mark.parity) for kind in made_layouts.DATASETS]


@pytest.fixture(scope="module", autouse=True)
def programs():
    """All layouts share compiled programs, because the layout does not affect the recipe, the model or the shapes."""
    with compiled_once() as programs:
        yield
    if programs:  # there are none if all tests were skipped
        assert sorted(name for name, _ in programs) == sorted(PROGRAMS)  # each was compiled once


@pytest.mark.parametrize("layout", [*LAYOUTS, *DATASETS])
def test_training_evaluation_and_prediction(layout, tmp_path, monkeypatch):
    data = made_layouts.made(train=8, val=2)
    if layout in made_layouts.DATASETS:
        pytest.importorskip("datasets")
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    root = {**LAYOUTS, **made_layouts.DATASETS}[layout](tmp_path / "set", data)
    config = micro_config(root, **SPLITS, **RUN)
    assert train(config, tmp_path / "run", devices=jax.devices()[:1]).step == 2
    metrics = {name[4:]: value for name, value in lines(tmp_path / "run")[-1].items() if name.startswith("val/")}
    assert metrics.pop("loss") > 0
    own = tuple(MEANING) if layout.startswith("voc") else ()
    assert tuple(metrics) == (*NAMES, *own) and all(0 <= metrics[name] <= 1 for name in ("AP", "AP50", *own))
    assert all(f"{name:<10} {metrics[name]:.4f}" in table(metrics) for name in own)
    detector = Detector.load(tmp_path / "run")
    made_layouts.save(tmp_path / "new.jpg", (80, 60))
    found = detector(tmp_path / "new.jpg", threshold=0)
    assert len(found.boxes) == 6 and np.isfinite(found.boxes).all() and set(found.names) <= set(made_layouts.NAMES)
