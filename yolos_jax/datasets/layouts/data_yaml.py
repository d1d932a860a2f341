"""Finds and reads the `data.yaml` of a data set in the Ultralytics YOLO layout."""

from pathlib import Path
from typing import Any

from yolos_jax.datasets.listing import is_hidden
from yolos_jax.datasets.plain_yaml import read_yaml
from yolos_jax.errors import InputError

ENDINGS = (".yaml", ".yml")
USUAL = ("data", "dataset")  # conventional file names, without extension


def find(root: Path) -> Path | None:
    """Returns the YAML file in a folder that describes a data set, or None.

    If several files qualify, only one with a conventional name (such as `data.yaml`) is used. Raises `InputError` if
    none qualifies and the only YAML file, or one with a conventional name, cannot be read.
    """
    inside = root.iterdir() if root.is_dir() else ()
    files = sorted(f for f in inside if f.suffix.lower() in ENDINGS and not is_hidden(f.name))
    found = []
    unreadable: dict[Path, InputError] = {}
    for file in files:
        try:
            found += [file] if read(file) else []
        except InputError as error:
            unreadable[file] = error
    if len(found) > 1:
        found = [f for f in found if f.stem.lower() in USUAL]
    refused = [error for file, error in unreadable.items() if len(files) == 1 or file.stem.lower() in USUAL]
    if refused and not found:
        raise refused[0]
    return found[0] if found else None


def read(file: Path) -> dict[str, Any] | None:
    """Returns the content of a YAML file if it describes a data set, or None; raises `InputError` if unreadable."""
    about = read_yaml(file)
    wanted = isinstance(about, dict) and about.keys() & {"names", "nc"} and about.keys() & {"train", "val"}
    return about if wanted else None
