"""Tests of runs with two processes: same results as with one, stopping at the same step, and errors if one dies."""

import json
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from compiled_once import compiled_once
from made_classes import classifier_config, make_classes
from micro_run import lines, micro_config, micro_data, without_key_biases
from process_pair import Pair, Program

import yolos_jax
from yolos_jax.distributed import launch
from yolos_jax.tasks.classification.task import pretrain
from yolos_jax.tasks.detection import train
from yolos_jax.training import checkpoint_files
from yolos_jax.weights import checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
EVALUATED = {"eval.every_epochs": 2, "train.ema": 0.25, "train.patience": 5, "data.augment": "light", "data.buckets": 0}
LONG = {"train.epochs": 400, "checkpoint.every_steps": 5}
# 4 steps on 72 training images; 33 validation images, only one of which is in the third batch.
CLASSES = {"train.batch_size": 16, "eval.batch_size": 16, "train.ema": 0.5, "augment.repeats": 2}
CLASSES |= {"train.max_steps": 4, "checkpoint.every_steps": 2, "train.curves": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return micro_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The folder of a run with one process on four devices."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train(micro_config(data, **EVALUATED), workdir, devices=jax.devices()[:4])
    return workdir


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """The folders of a classification data set, and of a run on it with one process on four devices."""
    root = make_classes(make_classes(tmp_path_factory.mktemp("classes"), "train", 24), "val", 11)
    pretrain(classifier_config(root, **CLASSES), root / "run", devices=jax.devices()[:4])
    return root, root / "run"


def params_of(workdir):
    params, meta = checkpoints.load_any(workdir)
    return without_key_biases(params), meta


def same_params(workdir, other):
    (mine, meta), (theirs, wanted) = params_of(workdir), params_of(other)
    assert meta.step == wanted.step
    off = np.concatenate([np.abs(x - y).ravel() for x, y in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs))])
    assert (off <= 1e-5).mean() >= 0.999 and off.max() <= 5e-4  # the bounds for trained parameters


def same_numbers(workdir, other, *keys):
    for mine, theirs in zip(lines(workdir), lines(other), strict=True):
        assert mine.keys() == theirs.keys()
        for key in keys:
            assert mine.get(key) == pytest.approx(theirs.get(key), abs=1e-5), key


@pytest.fixture(scope="module")
def done(folder, data, whole, classes, tmp_path_factory):
    """Runs several programs in two processes in a Slurm environment; returns their folder and output."""
    out = tmp_path_factory.mktemp("done")
    shutil.copytree(whole, out / "resumed")
    for later in ("3", "4", "best"):
        shutil.rmtree(out / "resumed" / later)
    programs = [
        Program("train.py", data, out / "refused", EVALUATED, second=("--config.seed=1",)),
        Program("eval.py", data, whole, EVALUATED, flags=(f"--out={out / 'two'}",)),
        Program("train.py", data, out / "run", EVALUATED),
        Program("train.py", data, out / "resumed", EVALUATED),
        Program("pretrain.py", classes[0], out / "classes", CLASSES, make="made_classes.classifier_config"),
    ]
    with Pair(folder, *programs, launcher="Slurm") as pair:
        assert pair.ends() == [0, 0], pair.text(0) + pair.text(1)
    parts = [pair.parts(i) for i in range(2)]
    assert [[code for code, _ in each] for each in parts] == [[2, 0, 0, 0, 0]] * 2, pair.text(0) + pair.text(1)
    return out, [[said for _, said in each] for each in parts]


def test_evaluation_matches_a_single_process(done, data, whole):
    out, _ = done
    two = json.loads((out / "two" / "results.json").read_text())
    one = yolos_jax.evaluate(micro_config(data, **EVALUATED), whole).results
    assert len(two) == len(one) == 10 * 6 and {r["image_id"] for r in two} == set(range(1, 11))
    for mine, theirs in zip(*(sorted(r, key=lambda e: (e["image_id"], -e["score"])) for r in (two, one))):
        assert (mine["image_id"], mine["category_id"]) == (theirs["image_id"], theirs["category_id"])
        np.testing.assert_allclose([*mine["bbox"], mine["score"]], [*theirs["bbox"], theirs["score"]], atol=1e-3)


def test_training_matches_a_single_process(done, whole):
    """There are ten images in batches of eight, so all images of the second batch belong to the first process."""
    out, (first, second) = done
    same_params(out / "run", whole)
    assert "4 devices in 2 processes" in first[2]
    assert "4 devices" not in "".join(second)  # only the first process prints
    same_numbers(out / "run", whole, "step", "total", "grad_norm", "val/AP", "val/AR100", "val/loss", "val_raw/AP")


def test_resumes_with_a_different_number_of_processes(done, whole):
    out, (first, _) = done
    assert "the checkpoint for step 2" in first[3]
    same_params(out / "resumed", whole)


def test_classifier_training_matches_a_single_process(done, classes):
    """Includes images that are mixed across processes, and stochastic depth."""
    (out, (first, second)), (_, whole) = done, classes
    run = out / "classes"
    assert "4 devices in 2 processes: 4 steps" in first[4] and "4 devices" not in second[4]
    same_params(run, whole)  # compares the best moving averages
    shapes = checkpoints.load_any(whole)[0]
    for step in (2, 4):
        mine, theirs = (checkpoint_files.read_arrays(f, step, params=shapes, ema=shapes) for f in (run, whole))
        for kind in ("params", "ema"):
            pairs = zip(*(jax.tree.leaves(without_key_biases(each[kind])) for each in (mine, theirs)))
            off = np.concatenate([np.abs(x - y).ravel() for x, y in pairs])
            assert (off <= 1e-5).mean() >= 0.999 and off.max() <= 5e-4, (step, kind)
    same_numbers(run, whole, "step", "loss", "accuracy", "grad_norm", "val/top1", "val/top5")
    assert (
        {"loss", "grad_norm"} <= lines(run)[0].keys()
        and "val/top1" in lines(run)[-2]
        and "val_raw/top1" in lines(run)[-1]
    )
    for part in ("4", "best/4"):  # data files have random names
        mine, theirs = ({p.relative_to(f / part).parts[:2] for p in (f / part).rglob("*")} for f in (run, whole))
        assert mine == theirs and ("params", "d") in mine
    mine, theirs = ({p.name for p in f.iterdir()} for f in (run, whole))
    assert mine == theirs and "metrics.jsonl" in mine
    assert all(checkpoint_files.steps(f) == [2, 4] and checkpoint_files.steps(f / "best") == [4] for f in (run, whole))


SOONER = """
from yolos_jax.distributed import launch

launch.TIMEOUTS["heartbeat_timeout_seconds"] = 15  # the first process waits this long for the killed one
"""


def kill(pair, workdir, killed):
    """Kills one process of a pair that is training; returns the exit codes, and the seconds until both have exited."""
    pair.steps(workdir, 2)
    pair.processes[killed].kill()
    start = time.monotonic()
    end = pair.ends(), time.monotonic() - start
    time.sleep(0.5)  # if a process was aborted, its witness prints the message a little later
    return end


def the_other_ends_with_a_sentence(end, text, workdir, killed):
    codes, seconds = end
    assert seconds < 60
    assert re.search(r"^error: .*another process of this run has died", text, re.M)
    assert codes[killed] == -signal.SIGKILL and codes[1 - killed] not in (0, -signal.SIGKILL)
    assert max(checkpoint_files.steps(workdir), default=0) % 5 == 0  # only the periodic checkpoints were saved


def test_signal_stops_both_at_the_same_step_and_one_process_resumes(folder, data, tmp_path):
    """After the signal, both processes train another run, during which the second process is killed."""
    run, then = tmp_path / "run", tmp_path / "then"
    both = Program("train.py", data, run, LONG, inject=SOONER), Program("train.py", data, then, LONG)
    with Pair(folder, *both) as pair:
        pair.steps(run, 3)
        pair.processes[1].send_signal(signal.SIGTERM)
        end = kill(pair, then, 1)
    the_other_ends_with_a_sentence(end, pair.text(0), then, 1)
    assert end[1] < 60 - (launch.TIMEOUTS["heartbeat_timeout_seconds"] - 15)
    codes, texts = zip(*(pair.parts(i)[0] for i in range(2)))
    assert codes == (143, 143), texts
    step = max(checkpoint_files.steps(run))
    assert f"stopped by SIGTERM after step {step} of 800; step {step} is saved" in texts[0]
    assert len(lines(run)) == step
    more = LONG | {"train.max_steps": step + 2}
    with compiled_once():
        train(micro_config(data, **more), run, devices=jax.devices()[:1])
        train(micro_config(data, **more), tmp_path / "whole", devices=jax.devices()[:1])
    same_params(run, tmp_path / "whole")


NO_SHARED_MEMORY = """
import jax
from yolos_jax.errors import InputError
from yolos_jax.tasks import base

loads = base.load_batches


def load(*args):
    base.load_batches = loads
    if jax.process_index() == 1:
        raise InputError("/dev/shm has 0.0 MiB left; enlarge it.")
    return loads(*args)


base.load_batches = load
"""
INFINITE = """
import jax
from yolos_jax.tasks import detection

starts = detection.starting_params


def start(*args):
    detection.starting_params = starts
    return jax.tree.map(lambda x: x * 1e30, starts(*args))


detection.starting_params = start
"""
FULL = """
import jax
from yolos_jax.errors import InputError
from yolos_jax.training import metrics

written = metrics.Metrics.write


def write(self, step, values, prefix=""):
    if step == 3:
        metrics.Metrics.write = written
    if step == 3 and jax.process_index() == 0:  # the process that writes the file
        raise InputError("metrics.jsonl could not be written (No space left on device); make room there.")
    written(self, step, values, prefix)


metrics.Metrics.write = write
"""


@pytest.fixture(scope="module")
def refused(folder, data, tmp_path_factory):
    """Runs two processes in an Open MPI environment; returns their folder, error messages and final exit codes.

    The errors are: different seeds, images damaged on one host, no shared memory on one host, values that are not
    finite, and a full disk. At the end, the first process is killed.
    """
    out = tmp_path_factory.mktemp("refused")
    shutil.copytree(data, out / "broken")
    for image in (out / "broken" / "train2017").iterdir():
        image.write_bytes(image.read_bytes()[:200])
    programs = [
        Program("train.py", data, out / "seed", LONG, second=("--config.seed=1",)),
        Program("train.py", data, out / "image", LONG, second=(f"--config.data.root={out / 'broken'}",)),
        Program("train.py", data, out / "memory", LONG, inject=NO_SHARED_MEMORY),
        Program("train.py", data, out / "infinite", LONG, inject=INFINITE),
        Program("train.py", data, out / "full", LONG, inject=FULL),
    ]
    programs.append(Program("train.py", data, out / "killed", LONG))
    with Pair(folder, *programs, launcher="Open MPI") as pair:
        end = kill(pair, out / "killed", 0)
    parts = [pair.parts(i) for i in range(2)]
    assert [[code for code, _ in each] for each in parts] == [[2] * 5] * 2, pair.text(0) + pair.text(1)
    names = "seed", "image", "memory", "infinite", "full"
    said = dict(zip(names, zip(*([text for _, text in each] for each in parts))))
    return out, said, (end, pair.text(1))


def test_reports_that_the_first_process_was_killed(refused):
    the_other_ends_with_a_sentence(*refused[2], refused[0] / "killed", 0)


def test_launched_processes_must_have_the_same_arguments(done, refused):
    """The error is the same with Slurm and with Open MPI."""
    for said in [each[0] for each in done[1]] + [*refused[1]["seed"]]:
        assert "error: process 1 does not match process 0: seed 1 vs. 0." in said


def test_bad_data_or_values_stop_both_processes(refused):
    out, said, _ = refused
    reason = rf"10 images in a row cannot be read. The last error: the image {out / 'broken'}\S* cannot be read"
    assert re.search(f"^error: {reason}", said["image"][1], re.M)
    assert re.search(f"^error: process 1 of 2 stopped: {reason}", said["image"][0], re.M)
    both = [re.search(r"error: (step \d+: the .*)", text)[1] for text in said["infinite"]]
    assert both[0] == both[1] and "not finite" in both[0]
    assert not checkpoint_files.steps(out / "infinite")


@pytest.mark.parametrize(
    ("name", "who", "sentence", "saved"),
    [("full", 0, "metrics.jsonl could not be written", "step 3 is saved"), ("memory", 1, "/dev/shm has", "")],
)
def test_error_in_one_process_stops_both(refused, name, who, sentence, saved):
    out, said, _ = refused
    texts = said[name]
    assert f"error: {sentence}" in texts[who]
    assert f"error: process {who} of 2 stopped: {sentence}" in texts[1 - who]
    assert saved in texts[who] and checkpoint_files.steps(out / name) == ([3] if saved else [])
