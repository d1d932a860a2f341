"""Reads the `objects` of Hugging Face data sets: boxes (xywh in pixels) and categories. Does not import jax."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from yolos_jax.datasets.annotations import Complain, Content
from yolos_jax.errors import shown

BOXES = ("bbox", "bboxes", "boxes")
CATEGORIES = ("category", "categories", "category_id", "label", "labels", "category_ids")
CROWDS = ("iscrowd", "is_crowd")
# Names of a column, a check of the types of its values, and a description of valid values for error messages.
_TYPES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (BOXES, lambda value: isinstance(value, list), "a box [x, y, width, height]"),
    (CATEGORIES, lambda value: type(value) in (int, str), "a name or an integer"),
    (("area",), lambda value: value is None or type(value) in (int, float), "a number"),
    (CROWDS, lambda value: value in (None, 0, 1), "0 or 1"),
)


class WrongObjects(ValueError):
    """The `objects` of an image have an unexpected type, which is part of the message."""


def checked(objects: Any) -> Any:
    """Checks the objects of an image, a mapping of columns or a list of mappings, and converts a category of 1.0 to 1.

    Raises `WrongObjects` for any other type, if a column is not a list, or if a value has the wrong type.
    """
    if objects is None:
        return {}
    if not isinstance(objects, dict | list):
        raise WrongObjects(f"has objects {shown(objects)}; they must have bbox and category")
    wrong = [each for each in objects if not isinstance(each, dict)] if isinstance(objects, list) else []
    if wrong:
        raise WrongObjects(f"has {shown(wrong[0])} among its objects; each must have a bbox and a category")
    return [_plain(each, ()) for each in objects] if isinstance(objects, list) else _plain(objects, (list,))


def _plain(objects: dict[str, Any], column_types: tuple[type, ...]) -> dict[str, Any]:
    """Checks columns, or the fields of one object if `column_types` is empty, and converts a category of 1.0 to 1."""
    plain = dict(objects)
    for names, is_right, wanted in _TYPES:
        for name in names:
            found = plain.get(name)
            if found is None:
                continue
            if column_types and not isinstance(found, column_types):
                raise WrongObjects(f"has {name} {shown(found)}; it must be a list with a value for each object")
            values = found if column_types else [found]
            if names is CATEGORIES:
                values = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
            wrong = [value for value in values if not is_right(value)]
            if wrong:
                raise WrongObjects(f"has {name} {shown(wrong[0])}; it must be {wanted}")
            plain[name] = values if column_types else values[0]
    return plain


def column(objects: Any, names: Iterable[str]) -> list[Any] | None:
    """Returns a column of an image's objects (a mapping of columns or a list of mappings), or None if it is missing."""
    if isinstance(objects, list):
        if not objects:
            return []
        present = [name for name in names if isinstance(objects[0], dict) and name in objects[0]]
        return [each.get(present[0]) for each in objects] if present else None
    present = [name for name in names if name in objects]
    return (objects[present[0]] or []) if present else None


def names_of(rows: Iterable[Any]) -> dict[str | int, int]:
    """Maps category names to ids: 0, 1, ... in alphabetical order; numeric categories keep their numbers."""
    found = {c for objects in rows for c in column(objects, CATEGORIES) or [] if type(c) in (int, str)}
    words = sorted(c for c in found if isinstance(c, str))
    return {n: n for n in sorted(c for c in found if isinstance(c, int))} or {word: i for i, word in enumerate(words)}


def content_of(
    rows: Iterable[tuple[dict[str, Any], Any]], numbers: Mapping[Any, int], origin: str, complain: Complain
) -> Content:
    """Converts rows to COCO format, with image ids starting at 1. Reports columns of different lengths.

    Args:
      rows: pairs of an image entry without id and the objects of the image.
      numbers: maps category names to ids.
      origin: source of the rows, for messages.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (image, objects) in enumerate(rows, 1):
        images.append({"id": image_id} | image)
        boxes, categories = column(objects, BOXES), column(objects, CATEGORIES)
        if not objects or (isinstance(objects, dict) and not any(objects.values())):
            continue
        if boxes is None or categories is None or len(boxes) != len(categories):
            wanted = "bbox and category must have the same length"
            complain(f"the objects of image id {image_id} in {origin} are {shown(objects)}; {wanted}.")
            continue
        areas, crowds = column(objects, ("area",)), column(objects, CROWDS)
        for i, (box, category) in enumerate(zip(boxes, categories)):
            category_id = category
            if not isinstance(category, int):
                category_id = numbers.get(category) if isinstance(category, str) else None
            one = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category_id, "bbox": box}
            if areas and len(areas) == len(boxes) and areas[i] is not None:
                one["area"] = areas[i]
            one["iscrowd"] = int(bool(crowds[i])) if crowds and len(crowds) == len(boxes) else 0
            annotations.append(one)
    listed = [{"id": category_id, "name": str(name)} for name, category_id in numbers.items()]
    return {"images": images, "annotations": annotations, "categories": listed}
