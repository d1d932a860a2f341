"""Compares several training runs: plots their curves in one figure and summarises them in a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolos_jax.errors import InputError, make_folder
from yolos_jax.tasks.pictures.curves import Panel, draw_panels, read_lines, series
from yolos_jax.tools.analysis.tables import write_csv
from yolos_jax.training.metrics import METRICS, RATE, SPEED

UNSHOWN = {"step", "epoch", RATE, SPEED, "grad_norm", "data_wait", "matcher_ms", "padding"}
USUAL = "total", "ce", "bbox", "giou"  # loss terms of detection, shown first


def compare_runs(workdirs: Sequence[str | Path], out: str | Path, font: str = "") -> str:
    """Plots the curves of several runs together and writes their values.

    Writes `runs.png`, with a panel for each metric, and `runs.csv`, with a row for each line of the runs'
    `metrics.jsonl`, to `out`. A metric that only some runs report is drawn for those runs.

    Args:
      workdirs: folders that training wrote.
      out: a folder, created if necessary.
      font: a font file for the runs' names; by default DejaVu Sans.

    Returns:
      A table to print, one row per run.

    Raises:
      InputError: a folder contains no run.
    """
    runs = {name: _lines(workdir) for name, workdir in zip(_names(workdirs), workdirs)}
    rows = [(name, line) for name, lines in runs.items() for line in lines]
    keys = list(dict.fromkeys(key for _, line in rows for key in line))
    terms = [key for key in keys if key not in UNSHOWN and not key.startswith(("val/", "val_raw/"))]
    terms.sort(key=lambda key: USUAL.index(key) if key in USUAL else len(USUAL))
    results = _headline(keys)
    titles = {key: key.removeprefix("val/") for key in [*terms, *results]}
    titles |= {RATE: "learning rate", SPEED: "images per second"}
    panels = [Panel(title, [(name, lines, key) for name, lines in runs.items()]) for key, title in titles.items()]
    folder = make_folder(out)
    draw_panels(panels, folder / "runs.png", 3, font)
    columns: dict[str, list[Any]] = {key: [line.get(key) for _, line in rows] for key in keys}
    write_csv(folder / "runs.csv", {"run": [name for name, _ in rows]} | columns)
    return _table(runs, terms[:1], results[:1])


def _lines(workdir: str | Path) -> list[dict[str, Any]]:
    try:
        lines = read_lines(workdir)
    except InputError as error:
        raise InputError(f"{workdir} contains no run: {error}") from error
    if not lines:
        raise InputError(f"{Path(workdir) / METRICS} contains no values yet; train for some steps first.")
    return lines


def _names(workdirs: Sequence[str | Path]) -> list[str]:
    """A name for each run: the shortest unique suffix of its folder's path."""
    parts = [Path(workdir).resolve().parts for workdir in workdirs]
    if len(set(parts)) < len(parts):
        raise InputError("a run is listed twice; list each run once.")
    for length in range(1, max(map(len, parts)) + 1):
        names = [str(Path(*each[-length:])) for each in parts]
        if len(set(names)) == len(names):
            break
    return names


def _headline(keys: Sequence[str]) -> list[str]:
    """The evaluation metrics to draw: AP and AP50, or, for other tasks, the first two."""
    found = [key for key in keys if key.startswith("val/")]
    return [key for key in ("val/AP", "val/AP50") if key in found] or found[:2]


def _table(runs: dict[str, list[dict[str, Any]]], terms: list[str], results: list[str]) -> str:
    head = ["run", "steps", *(f"last {key}" for key in terms)]
    for key in results:
        head += [f"best {key.removeprefix('val/')}", "at step", "last"]
    rows = [[*head, "images/s"]]
    for name, lines in runs.items():
        row = [name, str(max(line["step"] for line in lines))]
        for key in terms:
            values = series(lines, key)[1]
            row.append(f"{values[-1]:.4f}" if len(values) else "-")
        for key in results:
            steps, values = series(lines, key)
            if len(values):
                best = int(values.argmax())
                row += [f"{values[best]:.4f}", f"{steps[best]:.0f}", f"{values[-1]:.4f}"]
            else:
                row += ["-"] * 3
        speeds = series(lines, SPEED)[1]
        row.append(f"{np.median(speeds):.1f}" if len(speeds) else "-")
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines_of_text = []
    for row in rows:
        name, *numbers = row
        aligned = [number.rjust(width) for number, width in zip(numbers, widths[1:])]
        lines_of_text.append("  ".join([name.ljust(widths[0]), *aligned]))
    return "\n".join(lines_of_text)
