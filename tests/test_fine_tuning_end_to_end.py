"""Fine-tuning with the documented commands: training from pretrained weights, then evaluation and prediction."""

import json
import shutil

import jax
import made_layouts
import numpy as np
import pytest
from compiled_once import compiled_once
from made_classes import classifier_config, make_classes
from made_layouts import LAYOUTS
from micro_run import lines
from tiny_weights import huggingface_folder

from yolos_jax import pretrain
from yolos_jax.distributed.mesh import data_mesh
from yolos_jax.model.config import YolosConfig
from yolos_jax.model.yolos import build
from yolos_jax.tasks import detection
from yolos_jax.training import run as training_run
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.weights import checkpoints

ODD = YolosConfig(
    width=20, depth=3, heads=5, mlp_ratio=2.0, patch_size=8, det_tokens=7, num_classes=4, init_pe_size=(32, 48),
    mid_pe_size=(24, 40), layer_norm_eps=1e-5,
)  # fmt: skip
# These settings only make the test faster; they are not needed for real data.
SHORT = {
    "train.max_steps": 2, "train.batch_size": 4, "train.accumulate": 1, "train.log_every": 1, "train.curves": False,
    "data.short_side": 64, "data.max_side": 96, "data.scales": "(48, 64)", "data.crop_sides": "(48, 64)",
    "data.crop_range": "(32, 64)", "data.buckets": 1, "data.workers": 0, "eval.batch_size": 4, "matcher": "device",
}  # fmt: skip
SHORT = [f"--config.{key}={value}" for key, value in SHORT.items()]


@pytest.fixture(scope="module", autouse=True)
def programs():
    with compiled_once():
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint of a model whose size is not in the paper."""
    path = tmp_path_factory.mktemp("weights") / "odd"
    checkpoints.save(path, 0, build(ODD, 0)[1], Meta(ODD, {0: "a"}))
    return path


@pytest.fixture
def call(call, monkeypatch):
    """Runs the programs on one device, as on a laptop."""
    for module in (training_run, detection):
        monkeypatch.setattr(module, "data_mesh", lambda *_: data_mesh(jax.devices()[:1]))
    return call


def done(found):
    assert found.returncode == 0, found.stderr[-2000:]
    return found.stdout


def trained(call, weights, folder, layout="coco"):
    """Trains on generated data in `folder`; returns the command without `--config.init` and the `SHORT` settings."""
    root = LAYOUTS[layout](folder / "data", made_layouts.made(train=8, val=3))
    command = ["train.py", "--config=finetune_custom", f"--config.data.root={root}", f"--workdir={folder / 'run'}"]
    said = done(call(*command, f"--config.init={weights}", *SHORT))
    assert f"model: 3 blocks of width 20, 5 heads, patch size 8, from the weights {weights}" in said
    return command


@pytest.mark.parametrize("layout", ["coco", "roboflow", "yolo", "voc"])
def test_train_evaluate_predict(layout, weights, tmp_path, call):
    trained(call, weights, tmp_path, layout)
    run, out = tmp_path / "run", tmp_path / "out"
    meta = checkpoints.newest_meta(run)
    assert meta.model.differences(ODD) == ["num_classes 3 vs. 4"] and meta.model.layer_norm_eps == 1e-5
    assert meta.extra["config"]["model"]["width"] == 20 and meta.extra["config"]["model"]["num_classes"] == 0
    done(call("eval.py", "--checkpoint", run))
    metrics = json.loads((run / "eval-2" / "metrics.json").read_text())
    ours = {name: value for name, value in lines(run)[-1].items() if name.startswith("val/")}
    assert metrics["images"] == 3 and metrics["nms"] is None
    assert {name: metrics[name.removeprefix("val/")] for name in ours} == pytest.approx(ours, abs=1e-6)
    made_layouts.save(tmp_path / "new.jpg", (80, 60))
    counts = []
    for flags in ([], ["--nms=0"]):
        flags += ["--threshold=0", "--overwrite", "--no-draw"]
        done(call("predict.py", tmp_path / "new.jpg", "--checkpoint", run, "--out", out, *flags))
        objects = json.loads((out / "new.json").read_text())["objects"]
        assert {found["name"] for found in objects} <= set(made_layouts.NAMES)
        counts.append(len(objects))
    assert counts[0] == 7 > counts[1] > 0


def test_a_run_resumes_without_its_initial_weights(weights, tmp_path, call):
    gone = shutil.copytree(weights, tmp_path / "gone")
    command = trained(call, gone, tmp_path)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    shutil.rmtree(gone)
    for init in ([], [f"--config.init={gone}"]):
        said = done(call(*command, *SHORT, *init))
        assert "the checkpoint for step 2" in said and "from the weights" not in said
    done(call(*command, *SHORT, "--config.train.max_steps=3"))
    assert checkpoints.newest_meta(tmp_path / "run").step == 3
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes().startswith(before)
    refused = call(*command, *SHORT, "--config.model.depth=4")
    assert refused.returncode == 2 and "has a different model: depth 3 vs. 4" in refused.stderr
    anew = call(*command[:-1], f"--workdir={tmp_path / 'anew'}", *SHORT)
    assert anew.returncode == 2 and "the recipe requires starting weights; use --config.init=" in anew.stderr


def test_plots_are_added_to_an_evaluation(weights, tmp_path, call):
    trained(call, weights, tmp_path)
    command = ["eval.py", "--checkpoint", tmp_path / "run" / "best"]
    out = tmp_path / "run" / "best" / "eval-2"
    done(call(*command))
    before = {name: (out / name).read_bytes() for name in ("metrics.json", "results.json")}
    assert "earlier evaluation" in call(*command).stderr
    assert f"the metrics in {out}" in done(call(*command, "--plots"))
    assert {name: (out / name).read_bytes() for name in before} == before
    assert (out / "plots" / "summary.json").is_file() and (out / "plots" / "confusion.png").is_file()
    assert "plots/summary.json is from an earlier evaluation" in call(*command, "--plots").stderr
    other = call(*command, f"--plots={tmp_path / 'plots'}", f"--out={out}", "--config.data.val_split=train")
    assert other.returncode == 2 and "metrics.json is from a different evaluation (" in other.stderr
    assert {name: (out / name).read_bytes() for name in before} == before


def test_evaluation_with_nms(weights, tmp_path, call):
    trained(call, weights, tmp_path)
    command = ["eval.py", "--checkpoint", tmp_path / "run"]
    done(call(*command))
    done(call(*command, "--nms=0.2"))
    results = [json.loads((tmp_path / "run" / f"eval-2{end}" / "results.json").read_text()) for end in ("", "-nms0.2")]
    assert json.loads((tmp_path / "run" / "eval-2-nms0.2" / "metrics.json").read_text())["nms"] == 0.2
    assert len(results[0]) == 3 * 7 and [one for one in results[0] if one in results[1]]
    kept = []
    for one in sorted(results[0], key=lambda r: -r["score"]):
        rivals = [r for r in kept if (r["image_id"], r["category_id"]) == (one["image_id"], one["category_id"])]
        if all(overlap(one["bbox"], r["bbox"]) <= 0.2 for r in rivals):
            kept.append(one)
    order = [(one["image_id"], -one["score"]) for one in kept]
    assert sorted(order) == sorted((one["image_id"], -one["score"]) for one in results[1]) and len(kept) < 21
    for wrong in ("1.5", "-1", "nan", "half"):
        refused = call(*command, f"--nms={wrong}")
        assert refused.returncode == 2 and f"{wrong!r} is not a number between 0 and 1" in refused.stderr


def overlap(a, b):
    """IoU of two xywh boxes."""
    sides = [max(0, min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i])) for i in (0, 1)]
    inner = np.prod(sides)
    return inner / (a[2] * a[3] + b[2] * b[3] - inner)


def test_evaluation_of_moved_data_and_of_weights_without_a_recipe(weights, tmp_path, call):
    trained(call, weights, tmp_path)
    run = ["eval.py", f"--checkpoint={tmp_path / 'run'}"]
    (tmp_path / "data").rename(tmp_path / "moved")
    gone = call(*run)
    assert gone.returncode == 2 and f"data.root {tmp_path / 'data'}, " in gone.stderr
    assert "--config.data.root" in gone.stderr
    done(call(*run, f"--config.data.root={tmp_path / 'moved'}"))
    huggingface_folder(tmp_path / "hf")
    for path in (weights, tmp_path / "hf", "org/model"):
        refused = call("eval.py", "--checkpoint", path)
        assert refused.returncode == 2 and f"{path} contains no recipe" in refused.stderr
        assert "specify one with --config" in refused.stderr
    absent = call("eval.py", "--checkpoint", tmp_path / "absent")
    assert absent.returncode == 2 and "absent does not exist" in absent.stderr
    other = [*run, "--config=finetune_custom", f"--config.data.root={tmp_path / 'moved'}", f"--out={tmp_path / 'o'}"]
    done(call(*other, "--config.data.short_side=64", "--config.data.max_side=96"))
    refused = call(*other, "--overwrite", "--config.model.det_tokens=100")
    assert refused.returncode == 2 and "differs from the config: det_tokens 7 vs. 100" in refused.stderr


def test_evaluation_of_a_classifier(tmp_path, call):
    root = make_classes(make_classes(tmp_path / "data", "train", 24), "val", 8)
    pretrain(classifier_config(root, **{"eval.batch_size": 8}), tmp_path / "run")
    said = done(call("eval.py", "--checkpoint", tmp_path / "run"))
    (folder,) = (tmp_path / "run").glob("eval-*")
    metrics = json.loads((folder / "metrics.json").read_text())
    last = {name: value for name, value in lines(tmp_path / "run")[-1].items() if name.startswith("val/")}
    assert f"top1 {metrics['top1']:.4f}" in said and metrics["top1"] == pytest.approx(last["val/top1"])
    assert "nms" not in metrics
    refused = call("eval.py", "--checkpoint", tmp_path / "run", "--nms=0.5")
    assert refused.returncode == 2 and "--plots and --nms require a detector" in refused.stderr
