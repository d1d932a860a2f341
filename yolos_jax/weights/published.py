"""The published models, keyed by their file names in the reference and by their repositories on the hub."""

import dataclasses
from typing import NamedTuple

from yolos_jax.model.config import VARIANTS, YolosConfig, variant

TITLES = {"ti": "Ti", "s": "S", "s_dwr": "S (dWr)", "b": "B"}  # names of the variants in the paper


class Published(NamedTuple):
    """A published model: its variant, and its repository on the hub."""

    variant: str
    hub_id: str


_BY_FILE = {
    "yolos_ti": Published("ti", "hustvl/yolos-tiny"),
    "yolos_s_200_pre": Published("s", "hustvl/yolos-small"),
    "yolos_s_300_pre": Published("s", "hustvl/yolos-small-300"),
    "yolos_s_dWr": Published("s_dwr", "hustvl/yolos-small-dwr"),
    "yolos_base": Published("b", "hustvl/yolos-base"),
}
PUBLISHED = _BY_FILE | {model.hub_id.split("/")[1]: model for model in _BY_FILE.values()}
"""Published models, keyed by file name without extension and by repository name without owner."""


def variant_of(name: str) -> YolosConfig:
    """Returns the settings of a variant (`s`) or of a published model (`yolos_s_300_pre`, `hustvl/yolos-small-300`)."""
    known = PUBLISHED.get(name.removeprefix("hustvl/"))
    return variant(known.variant if known else name)


def with_classes(config: YolosConfig, num_classes: int) -> YolosConfig:
    """Returns the same model with a different number of classes."""
    return dataclasses.replace(config, num_classes=max(num_classes, 1))


def variant_name(config: YolosConfig) -> str | None:
    """Returns the name of a model's variant, regardless of the number of classes; None for other models."""
    for name, known in VARIANTS.items():
        if not known.differences(with_classes(config, known.num_classes)):
            return name
    return None
