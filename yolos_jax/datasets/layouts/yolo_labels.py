"""Reads YOLO label files, with relative boxes `class cx cy w h` or polygons `class x1 y1 x2 y2 ...`."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yolos_jax.datasets.annotations import Complain, Content
from yolos_jax.datasets.listing import is_hidden
from yolos_jax.errors import InputError, counted, shown
from yolos_jax.user_files import MissingFile, read_text

LISTS = "classes.txt", "obj.names", "labels.txt"  # files with one class name per line, if there is no data.yaml
MOST_BYTES = 2**26  # maximum size of a label file
OUT = 0.01  # tolerance for fractions outside 0..1


def read(
    paths: Sequence[str], folder: Path, names: dict[int, str], first_five: bool, origin: str, complain: Complain
) -> tuple[Content, list[str]]:
    """Reads the label files of images. Returns COCO content, except that boxes are relative to the image, and notes.

    Args:
      paths: paths of the images.
      folder: the folder that file names are relative to.
      names: maps class numbers to names.
      first_five: use only the first five numbers of each line.
    """
    inside = os.path.join(folder, "")
    images: list[dict[str, Any]] = [
        {"id": i, "file_name": path.removeprefix(inside) if path.startswith(inside) else os.path.abspath(path)}
        for i, path in enumerate(paths, 1)
    ]
    annotations: list[dict[str, Any]] = []
    absent = polygons = twice = 0
    for image, path in zip(images, paths):
        try:
            file, text = _label_file(path)
        except InputError as error:
            complain(str(error))
            continue
        absent += text is None
        lines = [line for line in (text or "").splitlines() if line.strip()]
        twice += len(lines) - len(set(lines))
        for line in dict.fromkeys(lines):
            numbers = _numbers(line)
            sentence = _wrong(numbers, line, names, first_five, file)
            if sentence is not None:
                complain(sentence)
                continue
            polygons += len(numbers) > 5 and not first_five
            box = _box(numbers[:5] if first_five else numbers)
            one = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": int(numbers[0])}
            annotations.append(one | {"bbox": box, "iscrowd": 0})
    notes = [f"{absent} of {len(paths)} images in {origin} are background (no label file)"] if absent else []
    notes += [f"converted {counted(polygons, 'polygon')} in the label files of {origin} to boxes"] if polygons else []
    notes += [f"ignored {counted(twice, 'duplicate line')} in the label files of {origin}"] if twice else []
    categories = [{"id": key, "name": name} for key, name in names.items()]
    return {"images": images, "annotations": annotations, "categories": categories}, notes


def unused_note(paths: Sequence[str]) -> list[str]:
    """Returns a note about label files without an image, if there are any."""
    used = {file for path in paths for file in _label_files(path)}
    unused = []
    for folder in filter(os.path.isdir, sorted({os.path.dirname(file) for file in used})):
        named = [name for name in sorted(os.listdir(folder)) if name.endswith(".txt") and not is_hidden(name)]
        unused += [os.path.join(folder, name) for name in named if name not in LISTS]
    unused = [file for file in unused if file not in used]
    return [f"{len(unused)} label files have no image and are skipped (for example {unused[0]})"] if unused else []


def _label_files(path: str) -> list[str]:
    """Returns possible paths of an image's label file: in `labels/` for an image in `images/`, or next to the image."""
    stem = os.path.splitext(path)[0] + ".txt"
    start, images, end = stem.rpartition(f"{os.sep}images{os.sep}")
    return [f"{start}{os.sep}labels{os.sep}{end}", stem] if images else [stem]


def _label_file(path: str) -> tuple[str, str | None]:
    """Returns an image's label file, and its content or None if it is missing; raises `InputError` if unreadable."""
    for file in _label_files(path):
        try:
            return file, read_text(file, "the label file", MOST_BYTES)
        except MissingFile:
            continue
    return file, None


def _numbers(line: str) -> list[float]:
    """Returns the numbers of a line, or an empty list if it contains anything else."""
    try:
        found = [float(word) for word in line.split()]
    except ValueError:
        return []
    return found if all(map(math.isfinite, found)) else []


def _wrong(numbers: list[float], line: str, names: dict[int, str], first_five: bool, file: str) -> str | None:
    """Returns a message if a line of a label file is invalid, or None."""
    count = len(numbers)
    if not (count == 5 or (count > 5 and first_five) or (count > 6 and count % 2)):
        return f"{file} has the line {shown(line)}; it must contain a class and 4 numbers, or a class and a polygon."
    if numbers[0] not in names:
        return f"{file} has the class {numbers[0]:g}, but there are only {len(names)} class names."
    fractions = numbers[1 : 5 if first_five else None]
    if min(fractions) < -OUT or max(fractions) > 1 + OUT:
        return f"{file} has the line {shown(line)}; its numbers must be fractions of the image, between 0 and 1."
    return None


def _box(numbers: list[float]) -> list[float]:
    """Returns [x, y, width, height] of a line's box or polygon, relative to the image size."""
    if len(numbers) == 5:
        _, cx, cy, w, h = numbers
        return [cx - w / 2, cy - h / 2, w, h]
    xs, ys = numbers[1::2], numbers[2::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
