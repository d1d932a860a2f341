"""Reads COCO instances files and says what is wrong in them."""

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yolos_jax.errors import InputError, shown

Complain = Callable[[str], None]


def stop(sentence: str) -> None:
    """The usual way to complain: the first wrong thing ends the reading."""
    raise InputError(sentence)


def read_annotations(path: Path, complain: Complain = stop, sizes: bool = True) -> dict[str, list]:
    """Reads a COCO instances file: its lists of images, annotations and categories, whole floats as whole numbers.

    `complain` is called with a sentence for every entry whose id, size or name is wrong; if it returns, the entry is
    left out. Without `sizes`, an image whose size is wrong or missing stays, without width and height. `InputError`
    if there is no such file, or if it is no JSON or lacks one of the lists.
    """
    content = read_json(path)
    kept: dict[str, list] = {}
    for key in ("images", "annotations", "categories"):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            listed = " (it is a list, as files of results are)" if isinstance(content, list) else ""
            raise InputError(
                f"the annotation file {path} has no list of {key}{listed}; it must be a COCO instances file."
            )
    for key, check in {"images": _wrong_image, "annotations": _wrong_annotation, "categories": _wrong_category}.items():
        kept[key], seen = [], set()
        for entry in content[key]:
            _whole_numbers(entry)
            sentence = check(entry, path)
            if sentence is None and key == "images" and not _is_size(entry):
                if sizes:
                    sentence = _wrong_size(entry, path)
                entry.pop("width", None)
                entry.pop("height", None)
            if sentence is None and key != "annotations" and entry["id"] in seen:
                sentence = f"id {entry['id']} is listed twice among the {key} of {path}."
            if sentence is None:
                kept[key].append(entry)
                seen.add(entry["id"] if key != "annotations" else None)
            else:
                complain(sentence)
    return kept


def read_json(path: Path) -> Any:
    """The content of an annotation file, which may begin with a byte order mark; `InputError` if it is no JSON."""
    if not path.is_file():
        raise InputError(f"the annotation file {path} does not exist.")
    data = path.read_bytes()
    try:
        if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise InputError(f"the annotation file {path} is UTF-16; save it as UTF-8.")
        if not data.strip():
            raise InputError(f"the annotation file {path} is empty.")
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"the annotation file {path} is not UTF-8 ({error.reason}); save it as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"the annotation file {path} is not valid JSON ({error}).") from error


def _whole_numbers(entry: dict) -> None:
    """Ids and sizes such as 64.0, which some tools write, become whole numbers."""
    for key in ("id", "image_id", "category_id", "width", "height"):
        value = entry.get(key)
        if type(value) is float and value.is_integer():
            entry[key] = int(value)


def _wrong_image(image: dict, path: Path) -> str | None:
    if not _is_id(image.get("id")) or not isinstance(image.get("file_name"), str):
        return f"an image of {path} has no whole-number id or no file_name: {shown(image)}."
    name = image["file_name"].encode("utf-8", "replace").decode()  # half a surrogate pair becomes "?"
    if not 0 < len(name) <= 1000 or "\0" in name or name != image["file_name"]:
        return (
            f"image id {image['id']} in {path} has the file name {shown(image['file_name'])}, which no file can have."
        )
    return None


def _is_size(image: dict) -> bool:
    return all(type(s) is int and 0 < s < 10**6 for s in (image.get("width"), image.get("height")))


def _wrong_size(image: dict, path: Path) -> str:
    size = image.get("width"), image.get("height")
    return f"image id {image['id']} in {path} has the size {shown(size)}; it must be whole pixels above 0."


def _wrong_annotation(annotation: dict, path: Path) -> str | None:
    number, image_id = annotation.get("id"), annotation.get("image_id")
    if _is_id(image_id):
        return None
    return f"annotation id {shown(number)} in {path} has no whole-number image_id ({shown(image_id)})."


def _wrong_category(category: dict, path: Path) -> str | None:
    if _is_id(category.get("id")) and "name" in category:
        return None
    return f"a category of {path} has no whole-number id or no name: {shown(category)}."


def wrong_box(annotation: dict, path: Path, categories: dict[int, Any]) -> str | None:
    """A sentence for numbers of an annotation that make no sense, or None; `categories` are the file's by id."""
    where = f"annotation id {shown(annotation.get('id'))} of image id {annotation['image_id']} in {path}"
    box, category, area = annotation.get("bbox"), annotation.get("category_id"), annotation.get("area")
    if not isinstance(box, list) or len(box) != 4 or not all(is_number(v) for v in box):
        return f"{where} has the box {shown(box)}; it must be 4 finite numbers [x, y, width, height]."
    if box[2] < 0 or box[3] < 0:
        return f"{where} has the box {box} with a negative width or height; repair or remove it."
    if area is not None and (not is_number(area) or area < 0):
        return f"{where} has the area {shown(area)}; it must be a finite number of at least 0."
    if annotation.get("iscrowd") not in (None, 0, 1):
        return f"{where} has iscrowd {shown(annotation['iscrowd'])}; it must be 0 or 1."
    if type(category) is not int or category not in categories:
        return f"{where} has the category id {shown(category)}, which its categories lack."
    return None


def _is_id(value: Any) -> bool:
    """Whether it is a whole number that int64 can hold."""
    return type(value) is int and abs(value) < 2**63


def is_number(value: Any) -> bool:
    """Whether it is a finite number that float32 can hold."""
    return not isinstance(value, bool) and isinstance(value, int | float) and abs(value) < 1e30
