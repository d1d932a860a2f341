"""Tests that the training loop works with any `Task`; the task here fits a line to points."""

import contextlib
import dataclasses
import json
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled_once import compiled_once
from micro_run import lines
from tiny_weights import TINY

from yolos_jax.config.recipes import detection_recipe
from yolos_jax.data.loader import Loaded
from yolos_jax.tasks.pictures.curves import Curves
from yolos_jax.tasks.pictures.run_pictures import RunPictures
from yolos_jax.training import checkpoint_files
from yolos_jax.training.loop import train_task
from yolos_jax.training.settings import CheckpointSettings, RunSettings
from yolos_jax.training.step import LossReport
from yolos_jax.training.task import Differences, Identity, Options, Task

POINTS, STEPS, RATE = 8, 6, 0.1
X = np.linspace(-1, 1, POINTS, dtype=np.float32)
Y = 3.0 * X + 0.5
OPTIONS = Options(RunSettings(log_every=1, curves=False), CheckpointSettings(every_steps=100))


@pytest.fixture(scope="module", autouse=True)
def programs():
    """Runs with the same training step share its program."""
    with compiled_once():
        yield


class Points(NamedTuple):
    """A batch; both arrays are float32 `[B]`."""

    x: np.ndarray
    y: np.ndarray


def loss(params, batch, divisors=None):
    error = (params["slope"] * batch.x + params["offset"] - batch.y) ** 2
    mean = error.sum() / (len(batch.x) if divisors is None else divisors)
    return mean, LossReport({"error": mean}, jnp.isfinite(error), {})


def rate(step):
    return RATE


def order(step):
    return np.random.default_rng(step).permutation(POINTS)[: POINTS // 2]


class Kept:
    """A sink that writes to a file."""

    def __init__(self, path, start):
        self.file = path.open("a")
        print("after", start, file=self.file)

    def add(self, step, values):
        print(step, *values, file=self.file)

    def close(self):
        print("closed", file=self.file)
        self.file.close()


class LineTask(Task):
    """Fits a line; `scores` are the results of the evaluations, in order."""

    bad_images = "errors"
    shown = ("error",)
    headline = ("fit",)
    model = TINY
    shapes = {name: jax.ShapeDtypeStruct((), np.float32) for name in ("slope", "offset")}  # noqa: RUF012
    plan = SimpleNamespace(steps_per_epoch=2)
    steps = STEPS
    optimizer = optax.sgd(RATE)
    schedule = staticmethod(rate)
    buckets = 1
    evaluation_interval = 2

    def __init__(self, scores):
        self.scores = iter(scores)

    def starting_params(self):
        return {"slope": np.float32(0), "offset": np.float32(0)}

    def loss(self, params, batch, divisors=None):
        return loss(params, batch, divisors)

    def divisors(self, batch):
        return len(batch.x)

    def batches(self, start, share):
        assert share == (0, 1)
        for step in range(start, STEPS):
            yield Loaded(step, Points(X[order(step)], Y[order(step)]), order(step), (), real=POINTS // 2, bucket=1)

    def pictures(self, workdir, say):
        return RunPictures(workdir, [Curves(workdir, self.shown, self.headline)], say)

    def sink(self, workdir, start, say):
        return Kept(workdir / "kept", start)

    def bucket_of(self, step):
        return 0

    def name_of(self, index):
        return f"point {index + 100}"

    def evaluate(self, params, cancelled):
        return SimpleNamespace(details={}, metrics={"fit": next(self.scores)}, skipped=[])

    def identity(self):
        return Identity(detection_recipe().to_dict(), {}, 0, {}, TINY, {})

    def differences(self, before):
        return Differences([], [], [])

    def check_alike(self):
        pass

    def describe(self):
        return ["a line through points", "note: points have no errors"]


def with_train(**changes):
    return dataclasses.replace(OPTIONS, train=dataclasses.replace(OPTIONS.train, **changes))


def train_line(scores, *args):
    return train_task(lambda mesh: LineTask(scores), *args, jax.devices()[:1])


def expected(decay=0.0):
    """Computes the parameters after the last step and their moving average with numpy."""
    slope = offset = np.float64(0)
    average = np.zeros(2)
    for step in range(STEPS):
        x, y = X[order(step)].astype(np.float64), Y[order(step)].astype(np.float64)
        error = slope * x + offset - y
        slope, offset = slope - RATE * 2 * (error * x).mean(), offset - RATE * 2 * error.mean()
        now = min(decay, (2 + step) / (11 + step))
        average = now * average + (1 - now) * np.array([slope, offset])
    return (slope, offset), average


@pytest.mark.parametrize("accumulate, ema", [(1, 0.0), (2, 0.75)])
def test_trains_evaluates_and_saves_a_line(tmp_path, capsys, accumulate, ema):
    """Tests runs with and without accumulation and a moving average."""
    options = with_train(accumulate=accumulate, ema=ema, curves=not ema)
    of_the_parameters = [0.6] if ema else []
    outcome = train_line([0.1, 0.9, 0.5, *of_the_parameters], tmp_path, options)
    assert (outcome.step, outcome.compiled, outcome.padding) == (STEPS, (1,), 0.0)
    shapes = LineTask.shapes
    trees = {"params": shapes} | ({"ema": shapes} if ema else {})
    found = checkpoint_files.read_arrays(tmp_path, STEPS, **trees)
    for name, want in zip(trees, expected(ema)):
        np.testing.assert_allclose((found[name]["slope"], found[name]["offset"]), want, rtol=1e-5)
    assert [line["val/fit"] for line in lines(tmp_path) if "val/fit" in line] == [0.1, 0.9, 0.5]
    assert (tmp_path / "curves.png").exists() == (not ema)
    assert checkpoint_files.steps(tmp_path) == [2, 4, 6] and checkpoint_files.steps(tmp_path / "best") == [4]
    printed = capsys.readouterr().out
    assert "a line through points\nnote: points have no errors" in printed
    assert "step 4: fit 0.9000, the best so far" in printed and "step 6: fit 0.5000, best 0.9000 at step 4" in printed
    assert "best fit 0.9000 at step 4" in printed
    differ = "has fit 0.5000; without averaging, it is 0.6000. Train longer, or lower train.ema."
    assert (differ in printed) == bool(ema)
    assert [line["val_raw/fit"] for line in lines(tmp_path) if "val_raw/fit" in line] == of_the_parameters


def test_no_note_if_the_average_scores_almost_as_well(tmp_path, capsys):
    train_line([0.1, 0.9, 0.5, 0.54], tmp_path, with_train(ema=0.5))
    assert "Train longer" not in capsys.readouterr().out


def test_patience_stops_a_resumed_run_at_the_same_step(tmp_path, capsys):
    patient = with_train(patience=1)
    assert train_line([0.5, 0.5], tmp_path / "whole", patient).step == 4
    printed = capsys.readouterr().out
    assert "stopped after 1 evaluation without a better fit" in printed and "is complete" in printed
    with contextlib.suppress(RuntimeError, StopIteration):
        train_line([0.5], tmp_path / "parts", patient)  # the second evaluation raises an exception
    assert train_line([0.5], tmp_path / "parts", patient).step == 4
    assert train_line([], tmp_path / "parts", patient).step == 4  # the run is complete, so this does nothing
    assert checkpoint_files.steps(tmp_path / "parts") == [2, 4]
    assert train_line([0.7], tmp_path / "parts", OPTIONS).step == STEPS  # without patience it continues


def test_patience_counts_from_the_best_and_ignores_undefined_metrics(tmp_path):
    assert train_line([-1.0, 0.2, 0.3], tmp_path / "better", with_train(patience=1)).step == STEPS
    assert train_line([0.2, -1.0, -1.0], tmp_path / "undefined", with_train(patience=1)).step == STEPS


def test_no_best_checkpoint_without_ground_truth(tmp_path, capsys):
    train_line([-1.0, -1.0, -1.0], tmp_path, OPTIONS)
    printed = capsys.readouterr().out
    assert checkpoint_files.steps(tmp_path / "best") == [] and checkpoint_files.steps(tmp_path)[-1] == STEPS
    assert printed.count("nothing to score, so there is no best checkpoint") == 3 and "best so far" not in printed
    assert "best fit" not in printed


def test_resumes_after_a_failed_evaluation(tmp_path):
    """The run continues with the evaluation that failed, and does not repeat any step."""
    with contextlib.suppress(RuntimeError, StopIteration):
        train_line([0.1], tmp_path, OPTIONS)  # the second evaluation raises an exception
    assert checkpoint_files.steps(tmp_path)[-1] == 4
    assert train_line([0.2, 0.3], tmp_path, OPTIONS).step == STEPS
    numbers = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in numbers if "error" in line] == [1, 2, 3, 4, 5, 6]
    assert [(line["step"], line["val/fit"]) for line in numbers if "val/fit" in line] == [(2, 0.1), (4, 0.2), (6, 0.3)]
    found = checkpoint_files.read_arrays(tmp_path, STEPS, params=LineTask.shapes)["params"]
    np.testing.assert_allclose((found["slope"], found["offset"]), expected()[0], rtol=1e-5)
    kept = [line.split()[:2] for line in (tmp_path / "kept").read_text().splitlines()]
    assert kept == [
        ["after", "0"], ["1", "train/error"], ["2", "train/error"], ["2", "val/fit"], ["3", "train/error"],
        ["4", "train/error"], ["closed"],
        ["after", "4"], ["4", "val/fit"], ["5", "train/error"], ["6", "train/error"], ["6", "val/fit"], ["closed"],
    ]  # fmt: skip
