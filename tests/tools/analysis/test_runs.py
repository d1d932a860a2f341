"""Tests that curves show the values of `metrics.jsonl`, and that a failed figure does not stop a run."""

import csv
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from yolos_jax.errors import InputError
from yolos_jax.tasks.pictures import curves
from yolos_jax.tasks.pictures.curves import Curves
from yolos_jax.tasks.pictures.plotting import thinned
from yolos_jax.tasks.pictures.run_pictures import RunPictures
from yolos_jax.tools.analysis.runs import compare_runs


def write_run(folder, steps, best, **more):
    """A run whose total loss falls as 10 / step, evaluated at every tenth step."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in range(1, steps + 1):
        terms = {"total": 10 / step, "ce": 1 / step, "bbox": 2.0, "class_error": 50.0, **more}
        speed = {"grad_norm": 3.0, "learning_rate": 1e-3, "images_per_second": 100.0 + step, "padding": 0.1}
        lines.append({"step": step, "epoch": 0, **terms, **speed})
        if step % 10 == 0:
            lines.append({"step": step, "epoch": 0, "val/AP": best * step / steps, "val/AP50": 0.5, "val/AR1": 0.1})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are created, by file name."""
    figures, save = {}, curves.save_figure

    def keep(figure, path, font):
        figures[path.name] = figure
        save(figure, path, font)

    monkeypatch.setattr(curves, "save_figure", keep)
    return figures


def data_of(figure):
    """The plotted values as {panel: {label: (x, y)}}."""
    return {
        axis.get_title(): {line.get_label(): line.get_data() for line in axis.lines}
        for axis in figure.axes
        if axis.axison
    }


def test_curves_show_the_metrics(tmp_path, drawn):
    lines = write_run(tmp_path / "run", 40, 0.4)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        # A value that is not finite, and a line truncated when the process was killed.
        file.write('{"step": 41, "total": NaN, "bbox": 7.0}\n{"step": 42, "tot')
    found = Curves(tmp_path / "run", ("total", "bbox"), ("AP", "AP50"))
    found.draw(40)
    panels = data_of(drawn["curves.png"])
    assert list(panels) == ["loss terms", "evaluation", "learning rate", "images per second"]
    steps = np.arange(1, 41)
    np.testing.assert_allclose(panels["loss terms"]["total"], [steps, 10 / steps])
    np.testing.assert_allclose(panels["loss terms"]["bbox"], [[*steps, 41], [2.0] * 40 + [7.0]])
    np.testing.assert_allclose(panels["evaluation"]["AP"], [[10, 20, 30, 40], [0.1, 0.2, 0.3, 0.4]])
    np.testing.assert_allclose(panels["images per second"]["images/s"], [steps, 100 + steps])
    (evaluation,) = (axis for axis in drawn["curves.png"].axes if axis.get_title() == "evaluation")
    assert evaluation.get_ylim() == (0, 1) and [text.get_text() for text in evaluation.texts] == ["0.400"]
    assert [line.get_xydata().tolist() for line in evaluation.lines if line.get_marker() == "*"] == [[[40, 0.4]]]
    with Image.open(tmp_path / "run" / "curves.png") as picture:
        assert min(picture.size) > 500
    drawn.clear()
    found.draw(41)  # no new lines
    assert not drawn and len(lines) == 44


def test_a_failure_is_reported_once(tmp_path, monkeypatch):
    write_run(tmp_path, 3, 0.5)
    (tmp_path / "curves.png").mkdir()  # a file cannot replace a folder
    said = []
    found = RunPictures(tmp_path, [Curves(tmp_path, ("total",), ("AP",))], said.append)
    found.draw(3, None)
    write_run(tmp_path / "more", 5, 0.5)
    (tmp_path / "more" / "metrics.jsonl").replace(tmp_path / "metrics.jsonl")
    found.draw(5, None)
    assert len(said) == 1 and "curves.png could not be drawn" in said[0] and "more" in str(list(tmp_path.iterdir()))
    assert not list(tmp_path.glob(".curves*"))
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    RunPictures(tmp_path, [Curves(tmp_path, ("total",), ("AP",))], said.append).draw(5, None)
    assert "pip install matplotlib" in said[1]


def test_compares_runs(tmp_path, drawn):
    a, b = write_run(tmp_path / "a", 20, 0.4), write_run(tmp_path / "b", 10, 0.6, giou=4.0)
    text = compare_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    head, first, second = (line.split() for line in text.splitlines())
    assert head == ["run", "steps", "last", "total", "best", "AP", "at", "step", "last", "images/s"]
    assert first == ["a", "20", "0.5000", "0.4000", "20", "0.4000", "110.5"]
    assert second == ["b", "10", "1.0000", "0.6000", "10", "0.6000", "105.5"]
    panels = data_of(drawn["runs.png"])
    titles = ["total", "ce", "bbox", "giou", "class_error", "AP", "AP50", "learning rate", "images per second"]
    assert list(panels) == titles and list(panels["giou"]) == ["b"] and list(panels["AP"]) == ["a", "b"]
    np.testing.assert_allclose(panels["AP"]["a"], [[10, 20], [0.2, 0.4]])
    with (tmp_path / "out" / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["run"] for r in rows] == ["a"] * len(a) + ["b"] * len(b)
    for row, line in zip(rows, a + b):
        assert {k: float(v) for k, v in row.items() if v and k != "run"} == line


def test_runs_in_folders_with_the_same_name(tmp_path):
    for name in ("x/run", "y/run"):
        write_run(tmp_path / name, 2, 0.4)
    text = compare_runs([tmp_path / name for name in ("x/run", "y/run")], tmp_path / "out")
    assert [line.split()[0] for line in text.splitlines()] == ["run", "x/run", "y/run"]


def test_folders_without_a_run(tmp_path):
    write_run(tmp_path / "a", 3, 0.4)
    (tmp_path / "empty").mkdir()
    (tmp_path / "b" / "a").mkdir(parents=True)
    (tmp_path / "b" / "a" / "metrics.jsonl").write_text("")
    for runs, words in (
        (["gone"], "gone .*no run: .*metrics.jsonl does not exist"),
        (["empty"], "empty contains no run"),
        (["a", "a"], "a run is listed twice"),
        (["a", "b/a"], "contains no values yet"),
        (["a", "b/../a"], "a run is listed twice"),
    ):
        with pytest.raises(InputError, match=words):
            compare_runs([tmp_path / run for run in runs], tmp_path / "out")


def test_thinned_curves_keep_the_means():
    y = np.random.default_rng(0).normal(size=12_345)
    x = np.arange(12_345.0)
    short_x, short_y = thinned(x, y)
    assert len(short_x) == len(short_y) == 1000 and short_y[-1] == y[-1] and short_x[-1] == x[-1]
    edges = np.linspace(0, 12_344, 1000).astype(int)
    np.testing.assert_allclose(short_y[:-1], [y[a:b].mean() for a, b in itertools.pairwise(edges)])
    assert thinned(x[:1000], y[:1000])[1] is not y and len(thinned(x[:1000], y[:1000])[1]) == 1000
