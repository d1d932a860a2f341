"""Hugging Face's convention of `objects`: columns of boxes (xywh in pixels) and categories. No jax here."""

from collections.abc import Callable, Iterable
from typing import Any

from yolos_jax.datasets.annotations import Complain
from yolos_jax.errors import shown

BOXES = ("bbox", "bboxes", "boxes")
CATEGORIES = ("category", "categories", "category_id", "label", "labels", "category_ids")
CROWDS = ("iscrowd", "is_crowd")


def column(objects: Any, names: Iterable[str]) -> list[Any] | None:
    """A column of an image's objects, which are a mapping of columns or a list of mappings; None if it has none."""
    if isinstance(objects, list):
        if not objects:
            return []
        present = [name for name in names if isinstance(objects[0], dict) and name in objects[0]]
        return [each.get(present[0]) for each in objects] if present else None
    present = [name for name in names if name in objects]
    return (objects[present[0]] or []) if present else None


def names_of(rows: Iterable[Any]) -> dict[str | int, int]:
    """The number of every category that the objects of `rows` name, in their order; numbers stay as they are."""
    found = {c for objects in rows for c in column(objects, CATEGORIES) or [] if type(c) in (int, str)}
    words = sorted(c for c in found if isinstance(c, str))
    return {n: n for n in sorted(c for c in found if isinstance(c, int))} or {word: i for i, word in enumerate(words)}


class Objects:
    """Annotations in COCO's format, from the objects of one image after the other.

    Args:
      number: the category id of what the column of categories holds; None if it has none.
      origin: where they come from, for messages.
    """

    def __init__(self, number: Callable[[Any], int | None], origin: str, complain: Complain):
        self._number = number
        self._origin = origin
        self._complain = complain
        self.annotations: list[dict[str, Any]] = []

    def add(self, image_id: int, objects: Any) -> None:
        """Appends an image's objects; complains of columns that do not fit together."""
        boxes, categories = column(objects, BOXES), column(objects, CATEGORIES)
        empty = not objects or (isinstance(objects, dict) and not any(objects.values()))
        if empty:
            return
        if boxes is None or categories is None or len(boxes) != len(categories):
            wanted = "they must have as many of bbox as of category"
            self._complain(f"the objects of image id {image_id} in {self._origin} are {shown(objects)}; {wanted}.")
            return
        areas, crowds = column(objects, ("area",)), column(objects, CROWDS)
        for i, (box, category) in enumerate(zip(boxes, categories)):
            number = self._number(category) if isinstance(category, int | str) else None
            one = {"id": len(self.annotations) + 1, "image_id": image_id, "category_id": number, "bbox": box}
            if areas and len(areas) == len(boxes) and areas[i] is not None:
                one["area"] = areas[i]
            one["iscrowd"] = int(bool(crowds[i])) if crowds and len(crowds) == len(boxes) else 0
            self.annotations.append(one)
