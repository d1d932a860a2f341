"""Writes a data set in any layout as a COCO folder: `annotations/instances_SPLIT.json` and `SPLIT/` with the images."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from yolos_jax.datasets.dataset import DataSet
from yolos_jax.datasets.splits import family_of
from yolos_jax.errors import InputError


class Converted(NamedTuple):
    """A summary of a written split, with notes about its source."""

    split: str
    images: int
    boxes: int
    notes: tuple[str, ...]


def names_of(splits: Sequence[str]) -> dict[str, str]:
    """Returns the name of each split in the COCO folder: `train`, `val` or `test` for a common name, if unique."""
    usual = [family_of(split) or split for split in splits]
    found = {split: name if usual.count(name) == 1 else split for split, name in zip(splits, usual)}
    return {split: name.replace("/", "_") for split, name in found.items()}


def write_split(source: DataSet, name: str, out: Path, copy: bool) -> Converted:
    """Writes one split; creates links to images, or copies them if `copy` is set.

    Raises `InputError` if an image does not exist.
    """
    content, folder = source.ground_truth(), out / name
    folder.mkdir(parents=True)
    examples = {example.image_id: example for example in source.examples}
    images, used = [], set[str]()
    for image in content["images"]:
        example = examples.get(image["id"])
        if example is None:
            continue
        data = None if source.packed is None else source.file_bytes(example)
        target = _file_name(image, example.file, data, used)
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        if data is not None:
            (folder / target).write_bytes(data)
        else:
            _put(example.file, folder / target, copy, source.origin)
        images.append(image | {"file_name": target})
    annotations = [a for a in content["annotations"] if a["image_id"] in examples]
    path = out / "annotations" / f"instances_{name}.json"
    path.parent.mkdir(exist_ok=True)
    written = {"images": images, "annotations": annotations, "categories": content["categories"]}
    path.write_text(json.dumps(written), encoding="utf-8")
    return Converted(name, len(images), len(annotations), source.notes)


def _file_name(image: dict[str, Any], file: str, data: bytes | None, used: set[str]) -> str:
    """Returns a unique file name for an image in the folder of its split."""
    name = os.path.normpath(image["file_name"].replace("\\", "/"))
    if data is not None and not os.path.splitext(name)[1]:
        name += ".png" if data[:4] == b"\x89PNG" else ".jpg"
    elif os.path.isabs(name) or name.startswith(".."):
        name = os.path.basename(file)
    elif not os.path.splitext(name)[1]:
        name += os.path.splitext(file)[1]
    if name in used:
        name = os.path.join(os.path.dirname(name), f"{image['id']}_{os.path.basename(name)}")
    used.add(name)
    return name


def _put(file: str, target: Path, copy: bool, origin: str) -> None:
    if not os.path.isfile(file):
        raise InputError(f"the image {file} does not exist; restore it, or remove it from {origin}.")
    elif copy:
        shutil.copyfile(file, target)
    else:
        target.symlink_to(os.path.abspath(file))
