"""Maps the categories of a data set to a model's labels (class indices), by id or by name."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from yolos_jax.datasets.annotations import Complain
from yolos_jax.datasets.category_names import distinct, known_names, listing, plain_name
from yolos_jax.datasets.settings import CATEGORIES, SplitOptions
from yolos_jax.errors import InputError

MOST_CLASSES = 100_000


@dataclasses.dataclass(frozen=True)
class Labels:
    """The mapping between category ids and labels, which are `0..num_classes - 1`."""

    num_classes: int
    category_ids: tuple[int, ...]  # category id of each label
    names: dict[int, str]  # distinct category name of each label
    of_category: dict[int, int]  # label of each category id

    def wrong(self, annotation: dict[str, Any], origin: str) -> str | None:
        """Returns a message if an annotation's category has no label, or None."""
        category = annotation["category_id"]
        if category in self.of_category:
            return None
        where = f"annotation id {annotation.get('id')} of image id {annotation['image_id']} in {origin}"
        none = f"which is not one of the model's {len(self.of_category)} categories"
        return f"{where} has the category id {category}, {none}."


def labels_of(
    listed: Sequence[Mapping[str, Any]], origin: str, options: SplitOptions, complain: Complain
) -> tuple[Labels, list[str]]:
    """Returns the labels of a data set, and notes.

    If an id has a different name in `options.settled`, categories are matched by name.

    Args:
      listed: the categories in COCO format.
      origin: the source of the categories, for messages.
      complain: called if the names conflict and cannot be matched.

    Raises:
      InputError: there are no categories, or they do not match the options.
    """
    written = {int(category["id"]): str(category["name"]) for category in listed}
    names = distinct(written)
    ids, notes = options.settled.category_ids, []
    called = _settled_names(names, options)
    if any(name is None or plain_name(name) != plain_name(names[category]) for category, name in called.items()):
        settled = known_names(options.settled.label_names)
        if _same_names(settled.values(), written.values()):  # also checks that names are unique
            ids = _match(settled, names, options.num_classes)
            differs = f"{origin} and {options.settled.by} number the classes differently"
            notes.append(f"{differs}; they are matched by name: {listing(names)}")
        elif options.settled.refuse and (sentence := _refusal(names, called, origin, options)):
            complain(sentence)
    return _number(names, origin, options, ids), notes


def _number(names: dict[int, str], origin: str, options: SplitOptions, category_ids: Sequence[int] | None) -> Labels:
    if options.categories not in CATEGORIES:
        raise InputError(f"data.categories is {options.categories!r}; choose one of {', '.join(CATEGORIES)}.")
    ids = _all_ids(names, origin, options) if category_ids is None else category_ids
    num_classes = options.num_classes or len(ids)
    if num_classes > len(ids):
        wanted = f"{origin} has {len(ids)} classes, but the model has {num_classes}"
        raise InputError(f"{wanted}; set --config.model.num_classes=0 to derive the number from the data set.")
    of_category = {int(category): label for label, category in enumerate(ids)}
    too_large = [category for category in names if of_category.get(category, -1) >= num_classes]
    if too_large:
        largest = max(too_large)
        wrong = f"category id {largest} in {origin} has the label {of_category[largest]}, which is outside"
        derive = "set --config.model.num_classes=0 to derive the number of classes from the data set."
        raise InputError(f"{wrong} 0..{num_classes - 1}; {derive}")
    named = {of_category[category]: name for category, name in names.items() if category in of_category}
    return Labels(num_classes, tuple(int(category) for category in ids), named, of_category)


def _all_ids(names: dict[int, str], origin: str, options: SplitOptions) -> list[int]:
    """Returns the category id of each label if `options.settled` has no categories."""
    if not names or min(names) < 0:
        raise InputError(f"{origin} has no categories, or a category with a negative id.")
    if options.categories == "contiguous":
        return sorted(names)
    if max(names) >= MOST_CLASSES:
        largest = f"the largest category id in {origin} is {max(names)}, which would require too many classes"
        raise InputError(f"{largest}; set --config.data.categories=contiguous.")
    # Raw ids leave gaps. There may be more outputs than ids (91 in the reference for COCO ids up to 90).
    return list(range(max(max(names) + 1, options.num_classes)))


def _settled_names(names: dict[int, str], options: SplitOptions) -> dict[int, str | None]:
    """Returns the settled name of each category id, or None for an id without one.

    The result is empty if there are no settled names or if names are ignored.
    """
    settled = known_names(options.settled.label_names)
    if options.names == "ids" or not settled:
        return {}
    ids = _settled_ids(names, options)
    label_of = {i: i for i in names} if ids is None else {category: label for label, category in enumerate(ids)}
    return {category: settled.get(label_of.get(category, -1)) for category in names}


def _settled_ids(names: dict[int, str], options: SplitOptions) -> Sequence[int] | None:
    if options.settled.category_ids is not None:
        return options.settled.category_ids
    return sorted(names) if options.categories == "contiguous" else None


def _same_names(names: Iterable[str], others: Iterable[str]) -> bool:
    """Whether both sets of names are equal and contain no duplicates."""
    a, b = Counter(map(plain_name, names)), Counter(map(plain_name, others))
    return a == b and max(a.values()) == 1


def _match(settled: dict[int, str], names: dict[int, str], num_classes: int) -> tuple[int, ...]:
    """Returns the category id of each label, matched by name; labels without a name get unused ids."""
    number = {plain_name(name): category for category, name in names.items()}
    unused = max(names) + 1
    labels = range(max(num_classes, *(label + 1 for label in settled)))
    return tuple(number[plain_name(settled[i])] if i in settled else unused + i for i in labels)


def _refusal(names: dict[int, str], called: dict[int, str | None], origin: str, options: SplitOptions) -> str | None:
    """Returns a message if names conflict with the settled names `called`; missing names are not conflicts."""
    other = [i for i, name in called.items() if name is not None and plain_name(name) != plain_name(names[i])]
    if not other:
        return None
    ids, i = _settled_ids(names, options), other[0]
    settled = {}
    for label, name in known_names(options.settled.label_names).items():
        settled[ids[label] if ids is not None and label < len(ids) else label] = name
    by = options.settled.by
    return (
        f"the category id {i} is {names[i]!r} in {origin} but {called[i]!r} in {by}, and the two sets of names "
        f"differ, so they cannot be matched: {listing(names)} and {listing(settled)}. Use data "
        f"with the same classes, or match them by id with --config.data.names=ids."
    )
