"""Runs as a user starts them, and what happens to them: signals, dead workers, kills at any moment."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from micro_run import assert_equal_trees, lines, micro_data, without_key_biases
from reference_pack import ROOT, data_folder

from yolos_jax import checkpoints

MICRO = {
    "init": "from_nothing", "matcher": "device",
    "model.width": 12, "model.depth": 2, "model.heads": 2, "model.det_tokens": 6, "model.init_pe_size": "(64, 64)",
    "data.short_side": 48, "data.scales": "(32, 48)", "data.crop_sides": "(48, 64)", "data.crop_range": "(32, 64)",
    "data.buckets": 1, "data.workers": 0, "train.batch_size": 4, "train.images_per_replica": 1,
    "eval.every_epochs": 0, "checkpoint.every_steps": 5, "train.log_every": 1,
}  # fmt: skip


class Training:
    """train.py in a process of its own; `wait_for` reads what it says."""

    def __init__(self, root, workdir, cache, devices=1, **changes):
        settings = MICRO | {"data.root": root} | changes
        command = [sys.executable, "train.py", "--config=configs/yolos_ti.py", f"--workdir={workdir}"]
        command += [f"--config.{key}={value}" for key, value in settings.items()]
        environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "PYTHONUNBUFFERED": "1", "NPROC": "32"}
        environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.said, self.errors = [], []
        self.threads = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.said), (self.process.stderr, self.errors))
        ]
        for thread in self.threads:
            thread.start()

    def _read(self, stream, into):
        for line in stream:
            into.append(line)

    def wait_for(self, condition, seconds=120):
        """Until `condition()` or the end of the process; fails after so many seconds."""
        end = time.monotonic() + seconds
        while not condition() and self.process.poll() is None:
            assert time.monotonic() < end, self.text()
            time.sleep(0.01)

    def end(self, seconds=120):
        """The exit code; everything said is then in `said` and `errors`."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        for thread in self.threads:
            thread.join(10)
        return code

    def text(self):
        return "".join(self.said) + "".join(self.errors)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.end()
        self.process.stdout.close()
        self.process.stderr.close()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return micro_data(tmp_path_factory.mktemp("data"))


def steps_logged(workdir):
    try:
        return len(lines(workdir))
    except (OSError, json.JSONDecodeError):
        return 0


LONG = {"train.epochs": 5000, "checkpoint.every_steps": 10**6}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_leaves(data, cache, tmp_path, number, code):
    with Training(data, tmp_path, cache, **LONG, **{"data.workers": 2}) as run:
        run.wait_for(lambda: steps_logged(tmp_path) > 5)
        run.process.send_signal(number)
        assert run.end() == code, run.text()
    (step,) = checkpoints.steps(tmp_path)
    assert f"stopped by {number.name} after step {step} of 10000; step {step} is saved" in run.text()
    assert "Traceback" not in run.text() and lines(tmp_path)[-1]["step"] == step


@pytest.mark.timeout(240)
def test_a_signal_to_the_whole_group_during_an_evaluation(data, cache, tmp_path):
    """As a scheduler sends it: to the data workers too, while the evaluation waits for them."""
    slow = {"train.epochs": 1, "eval.every_epochs": 1, "eval.batch_size": 1, "data.val_split": "train2017"}
    with Training(data, tmp_path, cache, **slow, **{"data.workers": 2}) as run:
        run.wait_for(lambda: checkpoints.steps(tmp_path))
        time.sleep(1.0)
        os.killpg(run.process.pid, signal.SIGTERM)
        assert run.end() == 143, run.text()
    assert "Traceback" not in run.text() and checkpoints.steps(tmp_path) == [2]


@pytest.mark.timeout(240)
def test_two_runs_in_one_folder(data, cache, tmp_path):
    with Training(data, tmp_path, cache, **LONG) as run:
        run.wait_for(lambda: steps_logged(tmp_path) > 5)
        with Training(data, tmp_path, cache, **LONG) as second:
            assert second.end() == 2 and "another process is training in" in second.text()
        run.process.send_signal(signal.SIGTERM)
        assert run.end() == 143 and steps_logged(tmp_path) == checkpoints.steps(tmp_path)[-1]


@pytest.mark.timeout(240)
def test_ctrl_c_twice_leaves_at_once(data, cache, tmp_path):
    with Training(data, tmp_path, cache, **LONG | {"checkpoint.every_steps": 7}) as run:
        run.wait_for(lambda: steps_logged(tmp_path) > 20)
        run.process.send_signal(signal.SIGINT)
        run.process.send_signal(signal.SIGINT)
        assert run.end() == 130
    assert "Traceback" not in run.text()
    assert all(step % 7 == 0 for step in checkpoints.steps(tmp_path)) or "stopped by SIGINT" in run.text()


@pytest.mark.timeout(240)
def test_a_dead_worker_is_reported_and_the_work_saved(data, cache, tmp_path):
    with Training(data, tmp_path, cache, **LONG, **{"data.workers": 2}) as run:
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
def test_a_signal_during_an_evaluation(data, cache, tmp_path):
    """The checkpoint is there already; the evaluation is done when the run goes on."""
    slow = {"train.epochs": 1, "eval.every_epochs": 1, "eval.batch_size": 1, "data.val_split": "train2017"}
    with Training(data, tmp_path, cache, **slow) as run:
        run.wait_for(lambda: checkpoints.steps(tmp_path))
        run.process.send_signal(signal.SIGTERM)
        assert run.end() == 143, run.text()
    assert checkpoints.steps(tmp_path) == [2] and "Traceback" not in run.text() and "AP" not in "".join(run.said)
    with Training(data, tmp_path, cache, **slow) as run:
        assert run.end() == 0
    assert "step 2: AP" in run.text() and checkpoints.steps(tmp_path / "best") == [2]


KILLS = 20
KILL = {
    "model.num_classes": 91, "model.width": 24, "model.depth": 3, "train.batch_size": 8, "train.images_per_replica": 2,
    "data.buckets": 2, "train.epochs": 48, "checkpoint.every_steps": 4, "train.ema": 0.9,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_any_moment_it_ends_as_if_it_never_had_been(cache, tmp_path):
    """SIGKILL at random moments, from the first import to the last checkpoint."""
    root, draw = data_folder("coco_tiny80"), random.Random(0)
    with Training(root, tmp_path / "whole", cache, **KILL) as run:
        assert run.end(300) == 0, run.text()
    total, killed, went_on = checkpoints.steps(tmp_path / "whole")[-1], 0, set()
    while killed < KILLS:
        # Every third run has data workers; every fourth is killed before it trains.
        with Training(root, tmp_path / "run", cache, **KILL | {"data.workers": 2 * (killed % 3 == 2)}) as run:
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
    with Training(root, tmp_path / "run", cache, **KILL) as run:
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
def test_killed_on_some_devices_and_resumed_on_others(cache, tmp_path, first, then):
    root, short = (
        data_folder("coco_tiny80"),
        KILL | {"train.epochs": 2, "data.buckets": 1, "train.images_per_replica": 1},
    )
    with Training(root, tmp_path / "whole", cache, devices=first, **short) as run:
        assert run.end(300) == 0, run.text()
    with Training(root, tmp_path / "run", cache, devices=first, **short) as run:
        run.wait_for(lambda: checkpoints.steps(tmp_path / "run"))
        run.process.kill()
    assert checkpoints.steps(tmp_path / "run")[-1] < 20, "killed too late to show anything"
    with Training(root, tmp_path / "run", cache, devices=then, **short) as run:
        assert run.end(300) == 0, run.text()
    a, b = (without_key_biases(checkpoints.load(tmp_path / folder)[0]) for folder in ("whole", "run"))
    assert_equal_trees(a, b, atol=1e-5)
