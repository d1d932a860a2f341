"""Which layout a data set is in, told by what lies there and not by its name. No jax here."""

import os
from pathlib import Path
from typing import Any

from yolos_jax.datasets.annotated import Annotated, Opener
from yolos_jax.datasets.annotations import Complain
from yolos_jax.datasets.layouts import coco_folder, hf_datasets, imagefolder, roboflow, ultralytics, unsupported, voc
from yolos_jax.datasets.splits import choose
from yolos_jax.errors import InputError

# The first one that finds its splits is taken.
LAYOUTS: tuple[Any, ...] = (hf_datasets, roboflow, coco_folder, ultralytics, voc, imagefolder)


def recognise(root: Path) -> tuple[str, dict[str, Opener], list[str]]:
    """The layout of a folder, what opens each of its splits, and notes.

    Raises:
      InputError: nothing is there, or it is in a layout that is not read; the sentence says what converts it.
    """
    if not root.exists():
        raise InputError(f"the data folder {root} does not exist; set --config.data.root.")
    found = [(layout.NAME, layout.splits(root)) for layout in LAYOUTS]
    found = [(name, splits) for name, splits in found if splits]
    if not found:
        raise InputError(unsupported.explain(root, [layout.NAME for layout in LAYOUTS]))
    (name, splits), *others = found
    also = ", ".join(other for other, _ in others)
    return name, splits, [f"{root} is read as {name}, though it could be read as {also}, too"] if also else []


def opener_of(root: Path, wanted: str, annotations: str = "", images: str = "") -> Opener:
    """What opens a split of the data set in `root`.

    Args:
      wanted: its name, or another one of the same family, see `splits.choose`.
      annotations, images: a COCO annotation file and a folder of images that were named instead; what is not named
        is where COCO's layout has it.

    Raises:
      InputError: see `recognise`.
      MissingSplit: the data set has no such split.
    """
    if annotations or images:
        files = {} if annotations else dict(coco_folder.files(root))
        usual = root / "annotations" / f"{coco_folder.INSTANCES}{wanted}.json"
        file = Path(annotations) if annotations else files[choose(wanted, files, str(root))[0]] if files else usual
        return lambda complain: coco_folder.read(file, Path(images or coco_folder.image_folder(root, wanted)), complain)
    name, splits, notes = recognise(root)
    split, more = choose(wanted, splits, f"{root} ({name})")
    return _Noted(splits[split], [*notes, *more])


class _Noted:
    """An opener whose splits say something more."""

    def __init__(self, opener: Opener, notes: list[str]):
        self._opener, self._notes = opener, notes

    def __call__(self, complain: Complain) -> Annotated:
        found = self._opener(complain)
        found.notes[:0] = self._notes
        return found


def is_datasets(root: str | os.PathLike[str]) -> bool:
    """Whether it was saved by the package `datasets`, whose folders look like TFDS's from afar."""
    return Path(root).is_dir() and bool(hf_datasets.splits(Path(root)))
