"""Runs that are killed at random times have the same results as uninterrupted runs."""

import random
import signal
import time

import pytest
from made_classes import make_classes
from micro_run import assert_equal_trees, lines, without_key_biases
from reference_pack import data_folder
from training_process import Training, steps_logged

from yolos_jax.training import checkpoint_files
from yolos_jax.weights import checkpoints

KILLS = 10
KILL = {
    "model.num_classes": 91, "model.width": 24, "model.depth": 3, "train.batch_size": 8, "train.images_per_replica": 2,
    "data.buckets": 1, "train.epochs": 10, "checkpoint.every_steps": 4, "train.ema": 0.9,
}  # fmt: skip


def killed_and_resumed(root, folder, total, kills, draw, apart=1, workers=False, **settings) -> None:
    """Kills a run of `total` steps `kills` times, each time `apart` steps and a random delay after it resumes."""
    went_on = set()
    for kill in range(kills):
        # Every third run has a data worker; every fourth is killed before it trains.
        with Training(root, folder, **settings | {"data.workers": int(workers and kill % 3 == 2)}) as run:
            if kill % 4 != 3:
                goal = min(steps_logged(folder) + apart, total - 12)
                run.wait_for(lambda: "training on" in "".join(run.said))
                run.wait_for(lambda goal=goal: steps_logged(folder) >= goal, 120)
                time.sleep(draw.uniform(0.0, 0.3))
            else:
                time.sleep(draw.uniform(0.0, 4.0))
            assert run.process.poll() is None, (kill, run.text())
            run.process.kill()
            assert run.end() == -signal.SIGKILL
        went_on |= {line for line in run.said if line.startswith("resuming from the checkpoint")}
    with Training(root, folder, **settings) as run:
        assert run.end(300) == 0, run.text()
    went_on |= {line for line in run.said if line.startswith("resuming from the checkpoint")}
    assert len(went_on) > kills // 4, went_on  # the kills happened at different stages of the run


def assert_same_runs(whole, other, total, terms) -> None:
    """Checks that parameters, their moving average and all logged values are bit-equal."""
    for name in ("params", "ema"):
        shapes = {name: checkpoints.load_any(whole)[0]}
        assert_equal_trees(*(checkpoint_files.read_arrays(folder, total, **shapes)[name] for folder in (whole, other)))
    logged = [[[line[term] for term in terms] for line in lines(folder)] for folder in (whole, other)]
    assert logged[0] == logged[1] and len(logged[0]) == total


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_run_matches_an_uninterrupted_one(tmp_path):
    """Sends SIGKILL at random times, from the first import to the last checkpoint."""
    root, total = data_folder("coco_tiny80"), 10 * KILL["train.epochs"]
    with Training(root, tmp_path / "whole", **KILL) as run:
        assert run.end(300) == 0, run.text()
    killed_and_resumed(root, tmp_path / "run", total, KILLS, random.Random(0), workers=True, **KILL)
    assert_same_runs(tmp_path / "whole", tmp_path / "run", total, ("total", "grad_norm"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_classifier_run_matches_an_uninterrupted_one(tmp_path):
    """The run mixes images and uses repeated augmentation."""
    root = make_classes(tmp_path / "data", "train", 16)
    settings = {"program": "pretrain.py", "train.epochs": 16, "train.ema": 0.9, "augment.repeats": 2}
    with Training(root, tmp_path / "whole", **settings) as run:
        assert run.end(300) == 0, run.text()
    total = checkpoint_files.steps(tmp_path / "whole")[-1]
    killed_and_resumed(root, tmp_path / "run", total, 2, random.Random(1), apart=12, **settings)
    assert_same_runs(tmp_path / "whole", tmp_path / "run", total, ("loss", "grad_norm"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_run_resumes_on_different_devices(tmp_path):
    """A run with two buckets on 8, then 1, then 8 devices has the same result as a run on 1 device."""
    root, run = data_folder("coco_tiny80"), tmp_path / "run"
    short = KILL | {"train.epochs": 2, "data.buckets": 2, "train.images_per_replica": 1}
    with Training(root, tmp_path / "whole", devices=1, **short) as process:
        assert process.end(300) == 0, process.text()
    for devices, least in ((8, 4), (1, 12)):
        with Training(root, run, devices=devices, **short) as process:
            process.wait_for(lambda least=least: (checkpoint_files.steps(run) or [0])[-1] >= least)
            process.process.kill()
        assert least <= checkpoint_files.steps(run)[-1] < 20, "the run was killed too late for this test"
    with Training(root, run, devices=8, **short) as process:
        assert process.end(300) == 0, process.text()
    a, b = (without_key_biases(checkpoints.load_detector(folder)[0]) for folder in (tmp_path / "whole", run))
    assert_equal_trees(a, b, atol=1e-5)
