"""Classes of the same names and other numbers: a checkpoint's and a data set's, or those of two splits."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from yolos_jax.datasets.category_names import known_names, listing, plain_name
from yolos_jax.datasets.rules import Rules


class Order(NamedTuple):
    """Which category each label is."""

    category_ids: tuple[int, ...] | None  # of every label, or as given
    note: str = ""  # that classes were matched by name
    refusal: str = ""  # why the names cannot be right


def order_by_names(
    listed: Sequence[Mapping[str, Any]],
    origin: str,
    rules: Rules,
    num_classes: int,
    categories: str,
    category_ids: Sequence[int] | None,
) -> Order:
    """Which categories of a data set the labels are that `rules.known.label_names` names.

    As numbered, if no name contradicts; by name, if both have the same set of names. Other arguments: see `Labels.of`.
    """
    given = Order(None if category_ids is None else tuple(category_ids))
    names, theirs = known_names(rules.known.label_names), {int(c["id"]): str(c["name"]) for c in listed}
    if rules.names == "ids" or not names or not theirs:
        return given
    ids = category_ids if category_ids is not None else sorted(theirs) if categories == "contiguous" else None
    label_of = {i: i for i in theirs} if ids is None else {category: label for label, category in enumerate(ids)}
    here = {category: names.get(label_of.get(category, -1)) for category in theirs}
    other = [i for i, name in here.items() if name is not None and plain_name(name) != plain_name(theirs[i])]
    if not other and None not in here.values():
        return given
    if _same(names.values(), theirs.values()):
        return _by_name(names, theirs, origin, rules, max(num_classes, *(label + 1 for label in names)))
    if not other:
        return given
    i = other[0]
    numbers = {label: label if ids is None else ids[label] if label < len(ids) else label for label in names}
    ours = {numbers[label]: name for label, name in names.items()}
    return given._replace(
        refusal=f"the category id {i} is {theirs[i]!r} in {origin} and {here[i]!r} in {rules.known.by}, and the names "
        f"are not the same ones, which could be matched: {listing(theirs)} against {listing(ours)}. Give data "
        f"with the same classes, or go on by the numbers with --config.data.names=ids."
    )


def _same(names: Any, others: Any) -> bool:
    """Whether these are the same names, none of them twice."""
    a, b = (Counter(map(plain_name, some)) for some in (names, others))
    return a == b and max(a.values()) == 1


def _by_name(names: dict[int, str], theirs: dict[int, str], origin: str, rules: Rules, classes: int) -> Order:
    number = {plain_name(name): category for category, name in theirs.items()}
    unused = max(theirs) + 1  # labels without a name get ids that no annotation has
    ids = [number[plain_name(names[i])] if i in names else unused + i for i in range(classes)]
    note = f"{origin} numbers the classes otherwise than {rules.known.by}; they are matched by name: {listing(theirs)}"
    return Order(tuple(ids), note)
