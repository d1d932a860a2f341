"""Reads data sets saved by Hugging Face `datasets`, or stored as Parquet. Requires the extra `datasets`."""

import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from yolos_jax.datasets.annotations import Annotations, Complain, OpenAnnotations
from yolos_jax.datasets.layouts.objects import CATEGORIES, WrongObjects, checked, content_of, names_of
from yolos_jax.errors import InputError
from yolos_jax.user_files import MOST_IMAGE, read_bytes

NAME = "Hugging Face datasets"
PARQUET = re.compile(r"(.+?)(-\d+-of-\d+)?\.parquet")


def splits(root: Path) -> dict[str, OpenAnnotations]:
    """Maps split names to functions that open the splits of a folder; empty if it is in a different layout.

    Does not import the package `datasets`.
    """
    if (root / "state.json").is_file() and any(root.glob("*.arrow")):
        return {"train": partial(read, root, "", [])}
    if (root / "dataset_dict.json").is_file():
        return {
            file.parent.name: partial(read, root, file.parent.name, []) for file in sorted(root.glob("*/state.json"))
        }
    found: dict[str, list[str]] = {}
    for file in sorted(root.glob("*.parquet")) or sorted(root.glob("data/*.parquet")):
        match = PARQUET.fullmatch(file.name)
        found.setdefault(match[1] if match else file.stem, []).append(str(file))
    return {split: partial(read, root, split, files) for split, files in found.items()}


class RowImages:
    """The images in the rows of a data set, with ids starting at 1; each process reopens the rows."""

    def __init__(self, rows: Any, origin: str):
        self._rows, self._origin = rows, origin

    def __contains__(self, image_id: int) -> bool:
        return 1 <= image_id <= len(self._rows)

    def __getitem__(self, image_id: int) -> bytes:
        image = self._rows[image_id - 1]["image"]
        return image["bytes"] or read_bytes(image["path"], most=MOST_IMAGE)

    def __str__(self) -> str:
        return self._origin


def read(root: Path, split: str, files: list[str], complain: Complain) -> Annotations:
    """Reads a split from Parquet `files` or a saved folder; raises `InputError` if a required column is missing."""
    rows = _rows(root, split, files)
    origin = f"{root} ({split})" if split else str(root)
    if not {"image", "objects"} <= set(rows.column_names):
        raise InputError(f"{origin} has the columns {', '.join(rows.column_names)}; it must have image and objects.")
    names = _class_names(rows.features["objects"])
    rest = rows.select_columns([c for c in rows.column_names if c in ("objects", "width", "height")])
    numbers = (
        {n: i for i, n in enumerate(names)} if names else names_of(objects for _, objects in _entries(rest, origin))
    )
    content = content_of(_entries(rest, origin), numbers, origin, complain)
    packed = RowImages(rows.select_columns(["image"]), origin)
    return Annotations(NAME, origin, root, content, boxes="xywh", upright=True, has_sizes=False, packed=packed)


def _entries(rows: Iterable[dict[str, Any]], origin: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yields an image entry and its objects for each row."""
    # Rows are identified by their index, because their ids may be duplicates or strings.
    for number, row in enumerate(rows):
        try:
            objects = checked(row.pop("objects"))
        except WrongObjects as error:
            raise InputError(f"row {number} of {origin} {error}.") from error
        yield {"file_name": str(number)} | row, objects


def _rows(root: Path, split: str, files: list[str]) -> Any:
    """Returns the rows of a split, with encoded images."""
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"reading {root} needs the package datasets, which is not installed; pip install 'yolos-jax[datasets]'."
        ) from error
    try:
        if files:
            rows = datasets.load_dataset("parquet", data_files={"it": files}, split="it")
        else:
            rows = datasets.load_from_disk(str(root / split))
        return rows.cast_column("image", datasets.Image(decode=False)) if "image" in rows.column_names else rows
    except Exception as error:  # damaged files raise various exceptions
        raise InputError(f"{root} cannot be opened as a data set ({' '.join(str(error).split())[:300]}).") from error


def _class_names(feature: Any) -> list[str] | None:
    """Returns the category names stored in the feature of the column `objects`, or None."""
    while hasattr(feature, "feature"):  # unwrap lists
        feature = feature.feature
    inside = feature[0] if isinstance(feature, list) else feature
    columns = [inside[key] for key in CATEGORIES if key in inside] if hasattr(inside, "keys") else []
    named = columns[0] if columns else None
    while named is not None and not hasattr(named, "names"):
        named = named[0] if isinstance(named, list) else getattr(named, "feature", None)
    return list(named.names) if named is not None else None
