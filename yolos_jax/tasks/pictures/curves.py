"""Plots the curves of a run from its `metrics.jsonl`: loss terms, metrics, learning rate and speed."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yolos_jax.tasks.pictures.plotting import line_style, new_figure, save_figure, thinned
from yolos_jax.training.metrics import METRICS, RATE, SPEED, numbers_of
from yolos_jax.training.task import Evaluated
from yolos_jax.user_files import read_bytes

PICTURE = "curves.png"
VALIDATION = "val/loss"
MOST_BYTES = 2**29
MOST = 1e300  # maximum of a plotted value; an integer in a damaged file may be too large for a float


class Panel(NamedTuple):
    """A panel of a figure. Each curve in `lines` is a (label, metrics lines of a run, metric key)."""

    title: str
    lines: Sequence[tuple[str, Sequence[Mapping[str, Any]], str]]
    logarithmic: bool = False
    shares: bool = False  # values are fractions: the axis spans 0 to 1, and the first curve's maximum is marked


def read_lines(workdir: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, sorted by step, without damaged ones. Raises `InputError` if unreadable."""
    found = (numbers_of(line) for line in read_bytes(Path(workdir) / METRICS, most=MOST_BYTES).splitlines())
    return sorted((line for line in found if line is not None), key=lambda line: line["step"])


def series(lines: Iterable[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """float64 `[n]` steps and values of a metric, without values that are not finite or exceed `MOST`."""
    numbers = [(line["step"], line[key]) for line in lines if isinstance(line.get(key), int | float)]
    points = [pair for pair in numbers if not any(abs(value) > MOST for value in pair)]
    steps, values = np.array(points, np.float64).reshape(-1, 2).T
    finite = np.isfinite(values)
    return steps[finite], values[finite]


def draw_panels(panels: Sequence[Panel], path: str | Path, columns: int = 2, font: str = "") -> None:
    """Plots curves against the step and writes a PNG file; curves with few points have markers. See `save_figure`."""
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(5.2 * columns, 3.2 * rows, rows, columns)
    for axis, panel in zip(axes.flat, panels):
        for number, (label, lines, key) in enumerate(panel.lines):
            steps, values = thinned(*series(lines, key))
            if len(steps):
                dots = "o" if len(steps) <= 30 else None
                axis.plot(steps, values, label=label, marker=dots, markersize=4, **line_style(number))
        axis.set_title(panel.title, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        if panel.logarithmic and axis.lines:
            axis.set_yscale("log")
        if panel.shares:
            axis.set_ylim(0, 1)
            _mark_best(axis, *panel.lines[0][1:])
        if axis.lines:
            axis.legend(fontsize=8)
        else:
            axis.text(0.5, 0.5, "no data yet", ha="center", transform=axis.transAxes)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    save_figure(figure, path, font)


def _mark_best(axis: Any, lines: Sequence[Mapping[str, Any]], key: str) -> None:
    """Marks the first maximum of a series with a star and its value."""
    steps, values = series(lines, key)
    if len(values):
        best = int(values.argmax())
        axis.plot(steps[best], values[best], marker="*", markersize=10, color="black", linestyle="none")
        above = values[best] < 0.85
        offset = (0, 8 if above else -16)
        text = f"{values[best]:.3f}"
        axis.annotate(text, (steps[best], values[best]), offset, textcoords="offset points", ha="center", fontsize=8)


class Curves:
    """Plots `curves.png` for a run.

    Args:
      workdir: the run's folder.
      terms: names of the loss terms to plot.
      headline: names of the evaluation metrics to plot.
    """

    name = PICTURE

    def __init__(self, workdir: Path, terms: Sequence[str], headline: Sequence[str]):
        self.workdir = workdir
        self.terms = terms
        self.headline = headline
        self._drawn = -1  # size of the metrics file in bytes when the curves were last drawn

    def draw(self, step: int, result: Evaluated | None = None) -> None:
        """Redraws the curves if the size of the metrics file has changed since the last call."""
        size = (self.workdir / METRICS).stat().st_size
        if size != self._drawn:
            self._drawn = size
            self._draw()

    def _draw(self) -> None:
        lines = read_lines(self.workdir)
        losses = [(name, lines, name) for name in self.terms]
        if any(VALIDATION in line for line in lines):
            losses.append(("validation", lines, VALIDATION))
        results = [(name, lines, f"val/{name}") for name in self.headline]
        panels = [
            Panel("loss terms", losses),
            Panel("evaluation", results, shares=True),
            Panel("learning rate", [("learning rate", lines, RATE)]),
            Panel("images per second", [("images/s", lines, SPEED)]),
        ]
        draw_panels(panels, self.workdir / PICTURE)
