"""Figures that are legible in black and white and for colour-blind readers. Imports matplotlib on first use."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from yolos_jax.errors import InputError

# Okabe and Ito's colour-blind-safe palette. Lines also differ in their dashes, and bars in their hatching.
COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
LIGHT = ("#bbbbbb", "#cce3f0", "#f7dfcc", "#cce8e0", "#f5e4ed", "#ddf0fb", "#faeccc")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)))
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "+++", "ooo")
MARKERS = "osD^vP*"
MOST_POINTS = 1000  # maximum number of points per line; more would be indistinguishable


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, np.ndarray]:
    """Returns a matplotlib `Figure` of the given size in inches, and its axes as an array `[rows, columns]`.

    The figure needs no display and need not be closed. Raises `InputError` if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("figures need matplotlib; run pip install matplotlib.") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(True, color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, axes


def line_style(number: int) -> dict[str, Any]:
    """Colour and dashes of a line, for `Axes.plot`; lines are numbered from 0."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)], "linewidth": 1.6}


def point_style(number: int) -> dict[str, Any]:
    """Colour and marker of the points of a series, for `Axes.plot`."""
    colour = COLOURS[number % len(COLOURS)]
    return {"color": colour, "marker": MARKERS[number % len(MARKERS)], "linestyle": "", "markersize": 5}


def bar_style(number: int) -> dict[str, Any]:
    """Light fill, dark edge and hatching of the bars of a series, for `Axes.bar`."""
    place = number % len(COLOURS)
    return {"facecolor": LIGHT[place], "edgecolor": COLOURS[place], "hatch": HATCHES[place], "linewidth": 1.0}


def thinned(x: np.ndarray, y: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Reduces a curve (two `[n]` arrays) to at most `most` points by averaging segments; keeps the last point."""
    if len(x) <= most:
        return x, y
    edges = np.linspace(0, len(x) - 1, most).astype(int)
    counts = np.diff(edges)
    parts = (np.append(np.add.reduceat(np.float64(v[:-1]), edges[:-1]) / counts, v[-1]) for v in (x, y))
    return next(parts), next(parts)


def save_figure(figure: Any, path: str | Path, font: str = "") -> None:
    """Writes a PNG file atomically. All figures are saved with this function, which turns off math text.

    Args:
      figure: a matplotlib figure.
      path: the output file.
      font: a font file for all text. Glyphs that it lacks are drawn in DejaVu Sans, or as boxes as a last resort.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    _set_plain_text(figure, font)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # see `fonts.missing_note`
            figure.savefig(draft, format="png", dpi=110)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _set_plain_text(figure: Any, font: str) -> None:
    """Turns off math text. Logarithmic axes get plain tick labels, because the default ones contain math text."""
    from matplotlib import font_manager
    from matplotlib.text import Text
    from matplotlib.ticker import LogFormatter, LogFormatterMathtext

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
                axis.set_major_formatter(LogFormatter())
                axis.set_minor_formatter(LogFormatter())
    families = []
    if font:
        font_manager.fontManager.addfont(font)
        families = [font_manager.FontProperties(fname=font).get_name(), "DejaVu Sans"]
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_usetex(False)
        if families:
            text.set_fontfamily(families)
