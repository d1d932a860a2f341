"""Runs as a user starts them, and what happens to them: signals, dead workers, kills at any moment."""

import os
import signal
import time

import psutil
import pytest
from micro_run import lines, micro_data
from training_process import Training, steps_logged

from yolos_jax import checkpoints


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return micro_data(tmp_path_factory.mktemp("data"))


LONG = {"train.epochs": 5000, "checkpoint.every_steps": 10**6}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_leaves(data, tmp_path, number, code):
    with Training(data, tmp_path, **LONG, **{"data.workers": 2}) as run:
        run.wait_for(lambda: steps_logged(tmp_path) > 5)
        run.process.send_signal(number)
        assert run.end() == code, run.text()
    (step,) = checkpoints.steps(tmp_path)
    assert f"stopped by {number.name} after step {step} of 10000; step {step} is saved" in run.text()
    assert "Traceback" not in run.text() and lines(tmp_path)[-1]["step"] == step


@pytest.mark.timeout(240)
def test_a_signal_to_the_whole_group_during_an_evaluation(data, tmp_path):
    """As a scheduler sends it: to the data workers too, while the evaluation waits for them."""
    slow = {"train.epochs": 1, "eval.every_epochs": 1, "eval.batch_size": 1, "data.val_split": "train2017"}
    with Training(data, tmp_path, **slow, **{"data.workers": 2}) as run:
        run.wait_for(lambda: checkpoints.steps(tmp_path))
        time.sleep(1.0)
        os.killpg(run.process.pid, signal.SIGTERM)
        assert run.end() == 143, run.text()
    assert "Traceback" not in run.text() and checkpoints.steps(tmp_path) == [2]


@pytest.mark.timeout(240)
def test_two_runs_in_one_folder(data, tmp_path):
    with Training(data, tmp_path, **LONG) as run:
        run.wait_for(lambda: steps_logged(tmp_path) > 5)
        with Training(data, tmp_path, **LONG) as second:
            assert second.end() == 2 and "another process is training in" in second.text()
        run.process.send_signal(signal.SIGTERM)
        assert run.end() == 143 and steps_logged(tmp_path) == checkpoints.steps(tmp_path)[-1]


@pytest.mark.timeout(240)
def test_ctrl_c_twice_leaves_at_once(data, tmp_path):
    with Training(data, tmp_path, **LONG | {"checkpoint.every_steps": 7}) as run:
        run.wait_for(lambda: steps_logged(tmp_path) > 20)
        run.process.send_signal(signal.SIGINT)
        run.process.send_signal(signal.SIGINT)
        assert run.end() == 130
    assert "Traceback" not in run.text()
    assert all(step % 7 == 0 for step in checkpoints.steps(tmp_path)) or "stopped by SIGINT" in run.text()


@pytest.mark.timeout(240)
def test_a_dead_worker_is_reported_and_the_work_saved(data, tmp_path):
    with Training(data, tmp_path, **LONG, **{"data.workers": 2}) as run:
        run.wait_for(lambda: steps_logged(tmp_path) > 5)
        workers = [p for p in psutil.Process(run.process.pid).children() if "spawn_main" in " ".join(p.cmdline())]
        workers[-1].kill()
        assert run.end(60) == 2, run.text()
    (step,) = checkpoints.steps(tmp_path)
    (sentence,) = [line for line in run.text().splitlines() if line.startswith("error: ")]
    assert f"process {workers[-1].pid} ended with code -9" in sentence and f"step {step} is saved" in sentence
    psutil.wait_procs(workers, timeout=10)
    assert not any(p.is_running() for p in workers)


@pytest.mark.timeout(240)
def test_a_signal_during_an_evaluation(data, tmp_path):
    """The checkpoint is there already; the evaluation is done when the run goes on."""
    slow = {"train.epochs": 1, "eval.every_epochs": 1, "eval.batch_size": 1, "data.val_split": "train2017"}
    with Training(data, tmp_path, **slow) as run:
        run.wait_for(lambda: checkpoints.steps(tmp_path))
        run.process.send_signal(signal.SIGTERM)
        assert run.end() == 143, run.text()
    assert checkpoints.steps(tmp_path) == [2] and "Traceback" not in run.text() and "AP" not in "".join(run.said)
    with Training(data, tmp_path, **slow) as run:
        assert run.end() == 0
    assert "step 2: AP" in run.text() and checkpoints.steps(tmp_path / "best") == [2]
