"""Reads lists of inputs: a text file with one path per line, or a table with a column of paths. Does not import jax."""

import csv
import glob
import os
from collections.abc import Iterator, Sequence

from yolos_jax.datasets.listing import ending_of
from yolos_jax.errors import InputError, check_path, counted
from yolos_jax.user_files import read_text

TEXT, TABLES = ".txt", (".csv", ".tsv")
COLUMNS = (
    "path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "image_file", "img",
    "img_path", "url",
)  # fmt: skip
DELIMITERS = ",;\t"


def is_list(name: str) -> bool:
    """Whether a name has the file extension of a list."""
    return ending_of(name) in (TEXT, *TABLES)


def expand(given: Sequence[str], notes: list[str]) -> Iterator[str]:
    """Replaces each list in `given` with its entries; adds a message about each list to `notes`."""
    for name in given:
        check_path(name)
        pattern = glob.has_magic(name) and not os.path.lexists(name)
        if not is_list(name) or "://" in name or pattern or os.path.isdir(name):
            yield name
            continue
        if not os.path.exists(name):
            raise InputError(f"the list {name} does not exist; use a file with one image path per line.")
        entries, column = read_list(name)
        inside = f" in column {column}" if column else ""
        notes.append(f"{name} lists {counted(len(entries), 'input')}{inside}")
        yield from entries


def read_list(file: str) -> tuple[list[str], str]:
    """The distinct entries of a list, and the name of the column that contains them ("" for a text file).

    Relative paths are looked up in the current folder, then in the list's folder. In text files, lines that
    start with `#` are comments. Tables are separated by commas, semicolons or tabs.

    Raises:
      InputError: the list is not a text file, is empty, contains another list, or has no column of paths.
    """
    lines = read_text(file, "the list").splitlines()
    column = ""
    if ending_of(file) == TEXT:
        found = [line.strip() for line in lines if not line.lstrip().startswith("#")]
    else:
        found, column = _from_table(lines, file)
    entries = [_placed(entry, file) for entry in dict.fromkeys(filter(None, found))]
    if not entries:
        raise InputError(f"the list {file} is empty; write one image path per line.")
    inner = [entry for entry in entries if is_list(entry)]
    if inner:
        raise InputError(f"the list {file} contains another list, {inner[0]}; pass that list separately.")
    return entries, column


def _from_table(lines: list[str], file: str) -> tuple[list[str], str]:
    """The cells and the name of the path column, identified by the first row; a single column needs no name."""
    delimiter = max(DELIMITERS, key=lines[0].count) if lines else ","
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter) if any(row)]
    if not rows:
        return [], ""
    head = rows[0]
    named = [place for place, cell in enumerate(head) if cell.lower().replace(" ", "_") in COLUMNS]
    if not named and len(head) > 1:
        columns = ", ".join(head[:8])
        raise InputError(f"{file} has no column of paths, only {columns}; rename the column of paths to {COLUMNS[0]}.")
    if not named:
        return [row[0] for row in rows], ""
    place = named[0]
    short = [number for number, row in enumerate(rows, 1) if len(row) <= place]
    if short:
        raise InputError(f"row {short[0]} of {file} has no column {head[place]}; complete or remove it.")
    return [row[place] for row in rows[1:]], head[place]


def _placed(entry: str, file: str) -> str:
    """The path of an entry; in the list's folder if it exists only there."""
    path = os.path.expanduser(entry)
    beside = os.path.join(os.path.dirname(file), path)
    return beside if not os.path.lexists(path) and os.path.lexists(beside) else path
