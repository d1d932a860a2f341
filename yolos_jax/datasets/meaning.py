"""Whether annotations in COCO's format can be meant as they are: turned images, boxes of another kind, dark images."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yolos_jax.data.examples import ExampleTable
from yolos_jax.datasets import plausible
from yolos_jax.datasets.annotations import Complain, wrong_box
from yolos_jax.datasets.dark import dark_note
from yolos_jax.datasets.rules import Rules
from yolos_jax.datasets.upright import MEASURED, NO_TURNING, Turning, decide, turn_sizes
from yolos_jax.images.headers import Header, read_headers

Headers = Callable[[Sequence[dict], Sequence[str]], list[Header]]
"""(entries of images, where they lie) -> their headers."""


class Meant(NamedTuple):
    """What training sees of a data set."""

    examples: ExampleTable  # in the order of the images
    dropped: dict[str, int]  # boxes left out as "crowd" and as "empty"
    clipped: int  # boxes that reach out of their image, empty ones included
    turning: Turning
    notes: tuple[str, ...]  # what the user should know, a sentence each


class Meaning:
    """Follows the reading of a data set from its images to its boxes, and judges them in the end.

    Args:
      origin, rules: where the annotations come from, and how they are to be read.
      names: of the file's categories by id.
      headers_of: what gives the headers of images; None for images that are files.
    """

    def __init__(self, origin: Path, rules: Rules, names: dict[int, Any], headers_of: Headers | None):
        self.origin, self.rules, self.names, self.headers_of = origin, rules, names, headers_of
        self.turning, self.deep = NO_TURNING, list[str]()
        self._boxes: list[tuple[float, ...]] = []  # xywh, and the sides of the image

    def images(self, found: list[tuple[dict, str]], annotations: Mapping[int, list[dict]]) -> list[tuple[dict, str]]:
        """The same images and files, with the sizes that they are read in; `annotations` are listed by image id."""
        images, files = [image for image, _ in found], [file for _, file in found]
        headers = self._headers(found)
        if not self.headers_of:
            self.deep = [file for file, header in zip(files, headers) if header.sixteen]
        if any(header.orientation > 1 for header in headers):
            turned = [image["id"] for image, header in zip(images, headers) if header.orientation > 1]
            usable = {i: [a for a in annotations[i] if not wrong_box(a, self.origin, self.names)] for i in turned}
            called = [image["file_name"] for image in images]
            self.turning = decide(self.rules.upright, images, called, headers, usable, self.rules.known.undecided)
            images = turn_sizes(self.turning, images, headers)
        return list(zip(images, files))

    def _headers(self, found: list[tuple[dict, str]]) -> list[Header]:
        """Those of all images; measured ones have been looked at already."""
        rest = [(image, file) for image, file in found if MEASURED not in image]
        images, files = [image for image, _ in rest], [file for _, file in rest]
        new = iter(self.headers_of(images, files) if self.headers_of else read_headers(files))
        return [image[MEASURED] if MEASURED in image else next(new) for image, _ in found]

    def add(self, annotation: dict[str, Any], image: dict[str, Any]) -> None:
        """Notes an annotation that makes sense by itself; crowds do not count."""
        if not annotation.get("iscrowd"):
            self._boxes.append((*annotation["bbox"], image["width"], image["height"]))

    def judged(self, examples: ExampleTable, dropped: dict[str, int], complain: Complain) -> Meant:
        """What was read; complains if the boxes cannot be COCO's."""
        table = np.array(self._boxes, np.float64).reshape(-1, 6)
        boxes, origin = plausible.Boxes(table[:, :4], table[:, 4:]), str(self.origin)
        refusal = plausible.implausible(boxes, origin, f"data.{self.rules.which}_boxes")
        if refusal is not None:
            complain(refusal)
        notes = self.turning.notes(origin)
        if self.rules.sixteen_bit == "full" and self.deep:
            notes += dark_note(self.deep, origin)
        return Meant(examples, dropped, plausible.clipped(boxes), self.turning, notes)
