"""Writes tables as CSV files and formats them as markdown."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def write_csv(path: str | Path, columns: Mapping[str, Iterable[Any]]) -> None:
    """Writes a CSV file from named columns. Numbers have full precision; NaN and None become empty cells."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(value) for value in row] for row in zip(*columns.values(), strict=True))


def write_rows(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a CSV file from rows, with the keys of the first row as the header; see `write_csv`."""
    keys = rows[0] if rows else ()
    write_csv(path, {key: [row[key] for row in rows] for key in keys})


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Formats rows as a markdown table, with columns in order of first appearance; missing values are empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[row.get(name, "") for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return "" if value is None or value != value else value
