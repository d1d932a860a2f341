"""A split of a data set for detection, as everything that reads one sees it. No jax here."""

from pathlib import Path
from typing import Any, Protocol

from yolos_jax.data.examples import Source
from yolos_jax.datasets.rules import Rules
from yolos_jax.datasets.upright import Turning


class DataSet(Source, Protocol):
    """A split of a data set, however it is stored."""

    layout: str  # such as "COCO" or "Pascal VOC"
    num_classes: int
    category_ids: tuple[int, ...]  # of every label 0..num_classes - 1
    dropped: dict[str, int]  # boxes left out of the examples, as "crowd" and as "empty"
    clipped: int  # boxes that reach out of their image
    rules: Rules
    turning: Turning  # images that EXIF turns, and how they are read
    origin: str  # where the annotations come from, for messages
    image_folder: Path
    notes: tuple[str, ...]  # what the user should know, a sentence each

    def place(self, file_name: str) -> str:
        """One spelling for every image that the annotations list."""

    def listed(self) -> dict[str, list]:
        """Images, annotations and categories in COCO's format, usable or not."""

    def ground_truth(self) -> dict[str, Any]:
        """What evaluation compares with: the content of a COCO annotation file, crowds included."""
