"""Runs killed at any moment end as if they never had been."""

import random
import signal
import time

import pytest
from micro_run import assert_equal_trees, lines, without_key_biases
from reference_pack import data_folder
from training_process import Training, steps_logged

from yolos_jax import checkpoints

KILLS = 20
KILL = {
    "model.num_classes": 91, "model.width": 24, "model.depth": 3, "train.batch_size": 8, "train.images_per_replica": 2,
    "data.buckets": 1, "train.epochs": 16, "checkpoint.every_steps": 4, "train.ema": 0.9,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_any_moment_it_ends_as_if_it_never_had_been(tmp_path):
    """SIGKILL at random moments, from the first import to the last checkpoint."""
    root, draw = data_folder("coco_tiny80"), random.Random(0)
    with Training(root, tmp_path / "whole", **KILL) as run:
        assert run.end(300) == 0, run.text()
    total, killed, went_on = checkpoints.steps(tmp_path / "whole")[-1], 0, set()
    while killed < KILLS:
        # Every third run has a data worker; every fourth is killed before it trains.
        with Training(root, tmp_path / "run", **KILL | {"data.workers": int(killed % 3 == 2)}) as run:
            if killed % 4 != 3:
                goal = min(steps_logged(tmp_path / "run") + 1, total - 12)
                run.wait_for(lambda: "training on" in "".join(run.said))
                run.wait_for(lambda goal=goal: steps_logged(tmp_path / "run") >= goal, 120)
                time.sleep(draw.uniform(0.0, 0.3))
            else:
                time.sleep(draw.uniform(0.0, 4.0))
            assert run.process.poll() is None, (killed, run.text())
            run.process.kill()
            assert run.end() == -signal.SIGKILL
        went_on |= {line for line in run.said if line.startswith("going on from the checkpoint")}
        killed += 1
    assert len(went_on) >= 3, went_on  # kills came at several stages of the run
    with Training(root, tmp_path / "run", **KILL) as run:
        assert run.end(300) == 0, run.text()
    for name in ("params", "ema"):
        shapes = {name: checkpoints.load(tmp_path / "whole")[0]}
        a, b = (checkpoints.read(tmp_path / folder, total, **shapes)[name] for folder in ("whole", "run"))
        assert_equal_trees(a, b)
    terms = [[line["total"] for line in lines(tmp_path / folder)] for folder in ("whole", "run")]
    assert terms[0] == terms[1] and len(terms[0]) == total


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first, then", [(8, 1), (1, 8)])
def test_killed_on_some_devices_and_resumed_on_others(tmp_path, first, then):
    root, short = (
        data_folder("coco_tiny80"),
        KILL | {"train.epochs": 2, "data.buckets": 2, "train.images_per_replica": 1},
    )
    with Training(root, tmp_path / "whole", devices=first, **short) as run:
        assert run.end(300) == 0, run.text()
    with Training(root, tmp_path / "run", devices=first, **short) as run:
        run.wait_for(lambda: checkpoints.steps(tmp_path / "run"))
        run.process.kill()
    assert checkpoints.steps(tmp_path / "run")[-1] < 20, "killed too late to show anything"
    with Training(root, tmp_path / "run", devices=then, **short) as run:
        assert run.end(300) == 0, run.text()
    a, b = (without_key_biases(checkpoints.load(tmp_path / folder)[0]) for folder in ("whole", "run"))
    assert_equal_trees(a, b, atol=1e-5)
