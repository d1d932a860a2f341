"""Every layout trains a step, is evaluated and predicts, with `data.root` alone."""

import jax
import made_layouts
import numpy as np
import pytest
from made_layouts import LAYOUTS
from micro_run import micro_config

from yolos_jax import Detector
from yolos_jax.evaluation.coco_metrics import NAMES, table
from yolos_jax.evaluation.voc_metrics import MEANING
from yolos_jax.tasks.detection import evaluate, train

SPLITS = {"data.train_split": "train", "data.val_split": "val", "data.categories": "contiguous"}
DATASETS = {"saved": False, "parquet": True}


@pytest.mark.parametrize("layout", [*LAYOUTS, *DATASETS])
def test_a_step_an_evaluation_and_a_prediction(layout, tmp_path, monkeypatch):
    data = made_layouts.made(train=4, val=2)
    if layout in DATASETS:
        pytest.importorskip("datasets")
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
        root = made_layouts.rows(tmp_path / "set", data, DATASETS[layout])
    else:
        root = LAYOUTS[layout](tmp_path / "set", data)
    config = micro_config(root, **SPLITS, **{"train.epochs": 1, "eval.every_epochs": 1, "model.num_classes": 3})
    assert train(config, tmp_path / "run", devices=jax.devices()[:1]).step == 1
    metrics = evaluate(config, tmp_path / "run").metrics
    own = tuple(MEANING) if layout.startswith("voc") else ()
    assert tuple(metrics) == (*NAMES, *own) and all(0 <= metrics[name] <= 1 for name in ("AP", "AP50", *own))
    assert all(f"{name:<10} {metrics[name]:.4f}" in table(metrics) for name in own)
    detector = Detector.load(tmp_path / "run")
    made_layouts.save(tmp_path / "new.jpg", (80, 60))
    found = detector(tmp_path / "new.jpg", threshold=0)
    assert len(found.boxes) == 6 and np.isfinite(found.boxes).all() and set(found.names) <= set(made_layouts.NAMES)
