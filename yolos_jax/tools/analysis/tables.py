"""Rows as CSV files and as markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yolos_jax.tools.analysis.csv_files import write_csv


def write_rows(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV file of rows under the first one's keys, see `write_csv`."""
    write_csv(path, {key: [row[key] for row in rows] for key in (rows[0] if rows else ())})


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows as a table, columns in the order in which they first appear; "" where a row lacks one."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([row.get(name, "") for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
