"""Runs as a user starts them, and what happens to them: signals, dead workers, a second run in their folder."""

import os
import signal
import time

import jax
import psutil
import pytest
from micro_run import lines, micro_data
from training_process import Training, flags, recipe, steps_logged

from yolos_jax import checkpoints
from yolos_jax.tasks.detection import train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return micro_data(tmp_path_factory.mktemp("data"))


LONG = {"train.epochs": 5000, "checkpoint.every_steps": 10**6}


def workers_of(run, count):
    """The data workers of a run, once there are so many."""

    def there():
        children = psutil.Process(run.process.pid).children()
        return [p for p in children if "spawn_main" in " ".join(p.cmdline())]

    run.wait_for(lambda: len(there()) >= count)
    return there()


def stops_and_saves(run, workdir, number, code):
    run.process.send_signal(number)
    assert run.end() == code, run.text()
    (step,) = checkpoints.steps(workdir)
    assert f"stopped by {number.name} after step {step} of 10000; step {step} is saved" in run.text()
    assert "Traceback" not in run.text() and lines(workdir)[-1]["step"] == step == steps_logged(workdir)


@pytest.mark.timeout(240)
def test_ctrl_c_saves_and_leaves(data, tmp_path):
    with Training(data, tmp_path, **LONG, **{"data.workers": 1}) as run:
        run.wait_for(lambda: steps_logged(tmp_path) > 5)
        stops_and_saves(run, tmp_path, signal.SIGINT, 130)


@pytest.mark.timeout(240)
def test_two_runs_in_one_folder_and_the_end_of_the_first(data, tmp_path, call):
    """A second one is refused; SIGTERM saves the first, which has data workers, and leaves."""
    with Training(data, tmp_path, **LONG, **{"data.workers": 2}) as run:
        run.wait_for(lambda: steps_logged(tmp_path) > 5)
        second = call("train.py", *flags(data, tmp_path, LONG))
        assert second.returncode == 2 and "another process is training in" in second.stderr
        stops_and_saves(run, tmp_path, signal.SIGTERM, 143)


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
        workers = workers_of(run, 2)
        workers[-1].kill()
        assert run.end(60) == 2, run.text()
    (step,) = checkpoints.steps(tmp_path)
    (sentence,) = [line for line in run.text().splitlines() if line.startswith("error: ")]
    assert f"process {workers[-1].pid} ended with code -9" in sentence and f"step {step} is saved" in sentence
    psutil.wait_procs(workers, timeout=10)
    assert not any(p.is_running() for p in workers)


@pytest.mark.timeout(240)
def test_signals_during_an_evaluation(data, tmp_path, capsys):
    """The checkpoint is there already; the evaluation is done when the run goes on.

    One signal is for the process; the other as a scheduler sends it, to the whole group: to the data worker, too, while
    the evaluation waits for it.
    """
    slow = {"train.epochs": 1, "eval.every_epochs": 1, "eval.batch_size": 1, "data.val_split": "train2017"}
    with Training(data, tmp_path, **slow) as run:
        run.wait_for(lambda: checkpoints.steps(tmp_path))
        run.process.send_signal(signal.SIGTERM)
        assert run.end() == 143, run.text()
    assert checkpoints.steps(tmp_path) == [2] and "Traceback" not in run.text() and "AP" not in "".join(run.said)
    with Training(data, tmp_path, **slow, **{"data.workers": 1}) as run:
        workers_of(run, 1)  # the run is complete but for its evaluation
        time.sleep(1.0)
        os.killpg(run.process.pid, signal.SIGTERM)
        assert run.end() == 143, run.text()
    assert "Traceback" not in run.text() and checkpoints.steps(tmp_path) == [2]
    assert "AP" not in "".join(run.said)
    outcome = train(recipe(data, slow), tmp_path, devices=jax.devices()[:1])
    said = "".join(capsys.readouterr())  # the bar of progress is on stderr
    assert outcome.step == 2 and outcome.signal == 0 and "going on from the checkpoint of step 2" in said
    assert "step 2: AP" in said and checkpoints.steps(tmp_path / "best") == [2]
