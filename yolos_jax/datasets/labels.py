"""Labels: the numbers that a model has for the categories of a data set."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yolos_jax.datasets.annotations import Complain
from yolos_jax.datasets.class_names import order_by_names
from yolos_jax.datasets.rules import Rules
from yolos_jax.errors import InputError

CATEGORIES = ("raw", "contiguous")
MOST_CLASSES = 100_000


@dataclasses.dataclass(frozen=True)
class Labels:
    """A number for every category: labels are `0..num_classes - 1`."""

    num_classes: int
    category_ids: tuple[int, ...]  # of every label
    names: dict[int, str]  # of each label that the categories list
    of_category: dict[int, int]  # the label of each category id

    @classmethod
    def of(
        cls,
        listed: list[dict[str, Any]],
        origin: str,
        num_classes: int = 0,
        categories: str = "raw",
        category_ids: Sequence[int] | None = None,
    ) -> "Labels":
        """Numbers the categories of a data set; `InputError` if there is none, or if they do not fit the arguments.

        Args:
          listed, origin: its categories in COCO's format, and where they come from, for messages.
          num_classes: 0 derives it from the categories.
          categories: "raw" takes category ids as labels, as the reference does; "contiguous" numbers the ids 0, 1,
            ... in ascending order.
          category_ids: the category id of each label, if a model's are to be kept.
        """
        if categories not in CATEGORIES:
            raise InputError(f"data.categories is {categories!r}; choose one of {', '.join(CATEGORIES)}.")
        names = {int(c["id"]): str(c["name"]) for c in listed}
        ids = category_ids
        if ids is None:
            if not names or min(names) < 0:
                raise InputError(f"{origin} lists no category, or one with a negative id.")
            if categories == "raw" and max(names) >= MOST_CLASSES:
                largest = f"the largest category id of {origin} is {max(names)}, which would make as many classes"
                raise InputError(f"{largest}; set --config.data.categories=contiguous.")
            ids = sorted(names) if categories == "contiguous" else range(max(names) + 1)
            # Raw ids leave gaps; more outputs than ids are allowed (the reference has 91 for COCO's 90).
            ids = [*ids, *range(len(ids), num_classes)] if categories == "raw" else [*ids]
        num_classes = num_classes or len(ids)
        if num_classes > len(ids):
            wanted = f"{origin} gives {len(ids)} classes where {num_classes} are wanted"
            raise InputError(f"{wanted}; set --config.model.num_classes=0 to derive them.")
        of_category = {int(category): label for label, category in enumerate(ids)}
        too_large = [c for c in names if of_category.get(c, -1) >= num_classes]
        if too_large:
            wrong = f"category id {max(too_large)} of {origin} gets the label {of_category[max(too_large)]}, outside"
            derive = "set --config.model.num_classes=0 to derive it from the file."
            raise InputError(f"{wrong} 0..{num_classes - 1}; {derive}")
        named = {of_category[c]: name for c, name in names.items() if c in of_category}
        return cls(num_classes, tuple(int(i) for i in ids), named, of_category)

    def wrong(self, annotation: dict[str, Any], origin: Path) -> str | None:
        """A sentence for an annotation whose category is none of these, or None."""
        category = annotation["category_id"]
        if category in self.of_category:
            return None
        where = f"annotation id {annotation.get('id')} of image id {annotation['image_id']} in {origin}"
        none = f"which is none of the model's {len(self.of_category)} categories"
        return f"{where} has the category id {category}, {none}."


def labels_of(
    listed: list[dict[str, Any]],
    origin: str,
    asked: tuple[int, str, Sequence[int] | None],
    rules: Rules,
    complain: Complain,
) -> tuple[Labels, tuple[str, ...]]:
    """The labels of a data set, and notes; matched by name with those that `rules` has, if their numbers differ.

    `asked` holds the last three arguments of `Labels.of`.
    """
    num_classes, categories, category_ids = asked
    order = order_by_names(listed, origin, rules, num_classes, categories, category_ids)
    if order.refusal and rules.known.refuse:
        complain(order.refusal)
    labels = Labels.of(listed, origin, num_classes, categories, order.category_ids)
    return labels, (order.note,) if order.note else ()
