"""The programs as a user runs them: a few real steps, and one sentence with exit code 2 for each mistake."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from made_coco import box, make_coco
from reference_pack import ROOT
from yolos_jax.defaults import get_config

from yolos_jax.errors import InputError
from yolos_jax.recipe import LEAST, check

MICRO = [
    "--config=configs/yolos_ti.py",
    *(f"--config.model.{k}={v}" for k, v in {"width": 12, "depth": 2, "heads": 2, "det_tokens": 6}.items()),
    *(f"--config.model.{k}={v}" for k, v in {"num_classes": 10, "init_pe_size": "(64, 64)"}.items()),
    *(f"--config.data.{k}={v}" for k, v in {"short_side": 48, "max_side": 96, "buckets": 1, "scales": "(48,)"}.items()),
    "--config.data.val_split=train2017",
    "--config.train.batch_size=2",
    "--config.train.images_per_replica=1",
    "--config.train.epochs=1",
    "--config.eval.batch_size=2",
]


def run(*args):
    """Runs a program from the repository's root on one plain CPU device."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, *map(str, args)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


def refused(result, *words):
    assert result.returncode == 2, result.stderr[-2000:]
    assert "Traceback" not in result.stderr and "Traceback" not in result.stdout
    (sentence,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in sentence, sentence


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a data set and the checkpoint of two steps on it."""
    folder = tmp_path_factory.mktemp("trained")
    root = make_coco(folder / "coco", [(64, 48)] * 5)
    done = run(
        "train.py", *MICRO, f"--config.data.root={root}", f"--workdir={folder / 'run'}", "--config.train.log_every=1"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "5 images" in done.stdout and "saved the checkpoint of step 2" in done.stdout
    return folder


def test_training_writes_metrics_and_goes_on_only_as_the_same_run(trained):
    lines = [json.loads(line) for line in (trained / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 2] and "val/AP50" in lines[-1]
    assert all(np.isfinite(list(line.values())).all() for line in lines)
    assert list((trained / "run" / "tensorboard").glob("events.*"))
    command = ["train.py", *MICRO, f"--config.data.root={trained / 'coco'}", f"--workdir={trained / 'run'}"]
    again = run(*command)
    assert again.returncode == 0 and "going on from the checkpoint of step 2" in again.stdout
    refused(run(*command, "--config.seed=3"), "seed 0 against 3", "--accept_differences")
    done = run(*command, "--config.seed=3", "--accept_differences")
    assert done.returncode == 0 and "accepted difference: seed 0 against 3" in done.stdout


def test_evaluation_predicts_and_never_overwrites(trained, tmp_path):
    command = ["eval.py", *MICRO, f"--config.data.root={trained / 'coco'}", f"--checkpoint={trained / 'run'}"]
    done = run(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = json.loads((trained / "run" / "eval-2" / "metrics.json").read_text())
    results = json.loads((trained / "run" / "eval-2" / "results.json").read_text())
    assert metrics["images"] == 5 and len(results) == 5 * 6
    assert f"AP50  {metrics['AP50']:.4f}" in done.stdout
    refused(run(*command), "earlier evaluation", "--overwrite")
    refused(run(*command, "--config.model.width=24", f"--out={tmp_path}"), "another model", "width 12 against 24")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"--config.data.root": "/nowhere"}, ["/nowhere does not exist"]),
        ({"--config.data.train_split": "gone"}, ["gone does not exist"]),
        (
            {"--config.train.batch_size": 3, "--config.train.images_per_replica": 2},
            ["multiple of", "images_per_replica 2"],
        ),
        ({"--config.train.batch_size": 6}, ["5 training images do not fill one batch of 6"]),
        ({"--config.train.accumulate": 4}, ["multiple of 4", "train.accumulate 4"]),
        ({"--config.train.ema": 1.5}, ["train.ema is 1.5"]),
        ({"--config.data.scales": "(8,)"}, ["data.scales", "at least a patch (16)"]),
        ({"--config.data.flip": 1.5}, ["data.flip is 1.5", "probability"]),
        ({"--config.data.crop_range": "(600, 384)"}, ["data.crop_range"]),
        ({"--config.data.scales": "(2000,)", "--config.data.max_side": 0}, ["model.max_side"]),
        ({"--config.data.categories": "odd"}, ["data.categories is 'odd'"]),
        ({"--config.optimizer.schedule": "never"}, ["optimizer.schedule", "epoch, step"]),
        (
            {"--config.optimizer.schedule": "step", "--config.optimizer.warmup_epochs": 1},
            ["warmup_epochs 1 leaves nothing"],
        ),
        ({"--config.model.compute_dtype": "float16"}, ["compute_dtype"]),
        ({"--config.eval.batch_size": 3, "--config.data.val_split": "gone"}, ["gone does not exist"]),
        ({"--config.optimizer.learning_rate": 1e30}, ["image id", "not finite", "This step is not saved"]),
        ({"--config.matcher": "magic"}, ["choose one of host, device"]),
        ({"--config.precision": "half"}, ["choose one of"]),
        ({"--config.train.epochs": 0}, ["train.epochs is 0"]),
        ({"--config.model.init_pe_size": "(a,b)"}, ["init_pe_size"]),
        ({"--workdir": "README.md/w"}, ["README.md/w cannot be written"]),
        ({"--config.init": "/nowhere"}, ["/nowhere"]),
        ({"--config.modle.width": 3}, ["modle"]),
    ],
    ids=lambda v: next(iter(v)).rsplit(".", 1)[-1] if isinstance(v, dict) else "",
)
def test_mistakes_in_training(trained, tmp_path, change, words):
    flags = [f"{k}={v}" for k, v in change.items()]
    result = run("train.py", *MICRO, f"--config.data.root={trained / 'coco'}", f"--workdir={tmp_path / 'w'}", *flags)
    refused(result, *words)
    assert not list((tmp_path).glob("w/[0-9]*"))


@pytest.mark.parametrize("key", sorted(LEAST))
@pytest.mark.parametrize("value", [-1, float("nan"), "x"])
def test_numbers_out_of_range_are_named(key, value):
    config = get_config()
    with config.ignore_type():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(InputError, match=f"{key} is .*; it must be a number of at least {LEAST[key]}"):
        check(config)


def test_missing_and_wrong_flags(tmp_path):
    refused(run("train.py", "--config=configs/absent.py", f"--workdir={tmp_path}"), "absent.py")
    refused(run("train.py", f"--workdir={tmp_path}"), "--config")
    refused(run("eval.py", "--config=configs/yolos_s.py"), "--checkpoint")
    refused(run("eval.py", "--config=configs/yolos_s.py", f"--checkpoint={tmp_path}", "more"), "'more'")


def test_bad_data_in_training(tmp_path):
    root = make_coco(tmp_path / "a", [(64, 48)] * 2, annotations=[box(5, 1, [1, 1, float("nan"), 4])])
    refused(run("train.py", *MICRO, f"--config.data.root={root}", f"--workdir={tmp_path / 'w'}"), "annotation id 5")
    root = make_coco(tmp_path / "b", [(64, 48)] * 2)
    path = root / "train2017" / "2.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    command = ["train.py", *MICRO, f"--config.data.root={root}", f"--workdir={tmp_path / 'w'}"]
    refused(run(*command), "2.jpg", "on_bad_image=skip")
    done = run(*command, "--config.data.on_bad_image=skip")
    assert done.returncode == 0 and "1 images were skipped" in done.stdout and "2.jpg" in done.stdout
