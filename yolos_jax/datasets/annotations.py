"""Annotations of a split in COCO format, which every layout returns, and a reader for COCO annotation files."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from yolos_jax.datasets.headers import Header
from yolos_jax.errors import InputError, shown
from yolos_jax.user_files import read_text

Complain = Callable[[str], None]
MOST_BYTES = 2**34  # maximum size of an annotation file
Content = dict[str, list[dict[str, Any]]]  # the images, annotations and categories of a COCO file


class PackedImages(Protocol):
    """Images that are not stored as separate files. Instances are pickled for data workers, so they must be small."""

    def __contains__(self, image_id: int) -> bool:
        """Whether an image with this id exists."""

    def __getitem__(self, image_id: int) -> bytes:
        """Returns an encoded image."""

    def __str__(self) -> str:
        """Returns the location of the images, for messages."""


@dataclasses.dataclass
class Annotations:
    """The annotations of one split in COCO format, and the location of its images."""

    layout: str  # such as "COCO"
    origin: str  # the annotation file or folder, for messages
    image_folder: Path
    # An image's file_name is relative to `image_folder`; width and height are missing if the layout lacks them.
    content: Content
    notes: list[str] = dataclasses.field(default_factory=list)
    by_spelling: bool = False  # file names may be misspelled: also try similar names inside the image folder
    boxes: str = ""  # box format, one of `settings.BOXES`; "" if the recipe sets it
    upright: bool = False  # boxes refer to upright images, because the layout's own tools rotate images upright
    has_sizes: bool = True  # whether the layout stores image sizes
    reopens: bool = False  # cheap to read again, so the content is not kept in memory
    packed: PackedImages | None = None
    headers: dict[int, Header] | None = None  # maps image ids to image headers, if the layout provides them
    # (ground truth, results, image ids) -> dict of layout-specific metrics
    own_metrics: Callable[[dict, list[dict], list[int]], dict[str, float]] | None = None


OpenAnnotations = Callable[[Complain], Annotations]
"""Reads a split; reports invalid entries and skips them."""


def stop(sentence: str) -> None:
    """The default for `complain`: raises an error at the first problem."""
    raise InputError(sentence)


def read_annotations(path: Path, complain: Complain = stop, sizes: bool = True) -> Content:
    """Reads the images, annotations and categories of a COCO instances file. Whole floats such as 64.0 become integers.

    `complain` is called with a message for every entry with an invalid id, size or name. If it returns, the entry is
    skipped. With `sizes=False`, an image with an invalid or missing size is kept, without width and height. Raises
    `InputError` if the file does not exist, is not JSON or lacks one of the lists.
    """
    content = read_json(path)
    for key in _CHECKS:
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            listed = " (the file contains a list, like a results file)" if isinstance(content, list) else ""
            raise InputError(
                f"the annotation file {path} has no list of {key}{listed}; it must be a COCO instances file."
            )
    kept: Content = {}
    for key, check in _CHECKS.items():
        kept[key], seen = [], set()
        for entry in content[key]:
            _whole_numbers(entry)
            if key == "images" and "file_name" not in entry and isinstance(entry.get("coco_url"), str):
                entry["file_name"] = "/".join(entry["coco_url"].split("/")[-2:])  # LVIS has no file names
            sentence = check(entry, path)
            if sentence is None and key == "images" and not is_sized(entry):
                if sizes:
                    sentence = _wrong_size(entry, path)
                entry.pop("width", None)
                entry.pop("height", None)
            if sentence is None and key != "annotations":
                if entry["id"] in seen:
                    sentence = f"id {entry['id']} is listed twice among the {key} in {path}."
                seen.add(entry["id"])
            if sentence is None:
                kept[key].append(entry)
            else:
                complain(sentence)
    return kept


def read_json(path: Path) -> Any:
    """Reads a JSON annotation file, with or without a byte order mark; raises `InputError` if it is not valid JSON."""
    text = read_text(path, "the annotation file", MOST_BYTES)
    if not text.strip():
        raise InputError(f"the annotation file {path} is empty.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the annotation file {path} is not valid JSON ({error}).") from error


def _whole_numbers(entry: dict) -> None:
    """Converts ids and sizes such as 64.0, which some tools write, to integers."""
    for key in ("id", "image_id", "category_id", "width", "height"):
        value = entry.get(key)
        if type(value) is float and value.is_integer():
            entry[key] = int(value)


def _wrong_image(image: dict, path: Path) -> str | None:
    if not _is_id(image.get("id")) or not isinstance(image.get("file_name"), str):
        return f"an image in {path} has no integer id or no file_name: {shown(image)}."
    name = image["file_name"].encode("utf-8", "replace").decode()  # a lone surrogate becomes "?"
    if not 0 < len(name) <= 1000 or "\0" in name or name != image["file_name"]:
        return f"image id {image['id']} in {path} has {shown(image['file_name'])}, which is not a valid file name."
    return None


def is_sized(image: dict[str, Any]) -> bool:
    """Whether an image entry has a valid width and height in whole pixels."""
    return all(type(side) is int and 0 < side < 10**6 for side in (image.get("width"), image.get("height")))


def _wrong_size(image: dict, path: Path) -> str:
    size = image.get("width"), image.get("height")
    return f"image id {image['id']} in {path} has the size {shown(size)}; width and height must be positive integers."


def _wrong_annotation(annotation: dict, path: Path) -> str | None:
    number, image_id = annotation.get("id"), annotation.get("image_id")
    if _is_id(image_id):
        return None
    return f"annotation id {shown(number)} in {path} has no integer image_id ({shown(image_id)})."


def _wrong_category(category: dict, path: Path) -> str | None:
    if _is_id(category.get("id")) and "name" in category:
        return None
    return f"a category in {path} has no integer id or no name: {shown(category)}."


_CHECKS = {"images": _wrong_image, "annotations": _wrong_annotation, "categories": _wrong_category}


def annotations_of(image_ids: Iterable[int], content: Content) -> dict[int, list[dict[str, Any]]]:
    """Returns a dict from image id to the annotations of the image, in file order."""
    found: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in image_ids}
    for annotation in content["annotations"]:
        if annotation["image_id"] in found:
            found[annotation["image_id"]].append(annotation)
    return found


def orphans_of(content: Content) -> dict[int, int]:
    """Returns the number of annotations for each image id that is not in the list of images."""
    known = {image["id"] for image in content["images"]}
    return Counter(a["image_id"] for a in content["annotations"] if a["image_id"] not in known)


def _is_id(value: Any) -> bool:
    """Whether a value is an integer that fits in int64."""
    return type(value) is int and abs(value) < 2**63
