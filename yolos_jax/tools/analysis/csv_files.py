"""Tables as CSV files."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_csv(path: str | Path, columns: Mapping[str, Iterable[Any]]) -> None:
    """A CSV file from its columns by name; numbers with all their digits, nothing for NaN and None."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(value) for value in row] for row in zip(*columns.values(), strict=True))


def _cell(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return "" if value is None or value != value else value
