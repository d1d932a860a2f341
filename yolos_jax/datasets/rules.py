"""How a recipe has annotations and images read, where a file alone does not say what it means."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from yolos_jax.datasets.annotations import is_number


@dataclasses.dataclass(frozen=True)
class Known:
    """What a checkpoint, or the split to train on, has settled."""

    label_names: Mapping[int, str] | None = None  # of every label that has one
    by: str = "the checkpoint"  # what settled it
    refuse: bool = True  # names that contradict them and cannot be matched
    undecided: str = ""  # how turned images are read, "upright" or "stored", where nothing tells; "" for upright


@dataclasses.dataclass(frozen=True)
class Rules:
    """The settings of the same names under `data.`, and what is known from elsewhere."""

    which: str = "train"  # or "val"; `boxes` is the setting of it
    upright: str = "auto"
    sixteen_bit: str = "full"
    names: str = "match"
    boxes: str = "xywh"
    known: Known = Known()


DEFAULT = Rules()


def in_pixels(content: Mapping[str, Any], boxes: str) -> None:
    """Turns the boxes of a COCO file's content into COCO's own [x, y, width, height] in pixels, in place.

    Shares are taken of the image's annotated sides. Areas become those of the boxes. What is no box of a listed image
    stays, to be complained of later.
    """
    if boxes == "xywh":
        return
    sizes = {i["id"]: (i.get("width"), i.get("height")) for i in content["images"]}
    for annotation in content["annotations"]:
        box, sides = annotation.get("bbox"), sizes.get(annotation.get("image_id"), ())
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, [*box, *sides])) or not sides:
            continue
        a, b, c, d = box
        if boxes.startswith("xyxy"):
            c, d = c - a, d - b
        elif boxes.startswith("cxcywh"):
            a, b = a - c / 2, b - d / 2
        if boxes.endswith("_shares"):
            a, b, c, d = a * sides[0], b * sides[1], c * sides[0], d * sides[1]
        annotation |= {"bbox": [a, b, c, d], "area": max(c, 0) * max(d, 0)}
