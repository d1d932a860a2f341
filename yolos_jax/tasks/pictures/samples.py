"""Draws a few validation images after every evaluation, with annotations and detections side by side."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from yolos_jax.datasets.dataset import DataSet
from yolos_jax.images.reading import UnreadableImage
from yolos_jax.inference.contact_sheet import contact_sheet
from yolos_jax.inference.drawing import draw_boxes
from yolos_jax.training.task import Evaluated

SHOWN = 8  # number of images that are drawn
COLUMNS = 4  # columns of the sheet; each image is shown twice, so a row has two images
THRESHOLD = 0.5  # minimum score of the detections that are drawn
FIRST = 3  # number of detections per image that are always drawn, because scores are low at first
SIDE = 360  # longer side of an image in pixels
QUALITY = 88  # JPEG quality


def spread(images: int) -> list[int]:
    """The indices of the images to draw, spread evenly over a split with `images` images."""
    return np.unique(np.linspace(0, images - 1, min(SHOWN, images)).round().astype(int)).tolist()


class Samples:
    """Draws the same images, spread evenly over the split, after every evaluation.

    Each image is shown twice, side by side: once with its annotations, once with its detections.

    Args:
      workdir: the run's folder, where `validation/step-NUMBER.jpg` is written.
      source: the split that is evaluated.
      font: see `draw_boxes`.
    """

    name = "validation"

    def __init__(self, workdir: Path, source: DataSet, font: str = ""):
        self.font = font
        self.folder = workdir / self.name
        self.source = source
        self.places = spread(len(source.examples))

    def draw(self, step: int, result: Evaluated | None) -> None:
        """Writes a contact sheet. Skips unreadable images; does nothing without a result."""
        results: Sequence[Mapping[str, Any]] | None = getattr(result, "results", None)
        if not results:
            return
        cells: list[Image.Image] = []
        for place in self.places:
            image_id = self.source.examples[place].image_id
            found = [each for each in results if each["image_id"] == image_id]
            with contextlib.suppress(UnreadableImage):  # the evaluation reports it
                cells += self._pair(place, found)
        if cells:
            self.folder.mkdir(exist_ok=True)
            contact_sheet(cells, COLUMNS, SIDE).save(self.folder / f"step-{step:08d}.jpg", quality=QUALITY)

    def _pair(self, place: int, found: Sequence[Mapping[str, Any]]) -> list[Image.Image]:
        """Draws an image with its annotations, and again with its detections."""
        example = self.source.examples[place]
        image = self.source.read(example)
        names = self.source.label_names
        labels = example.labels.tolist()
        texts = [names.get(label, str(label)) for label in labels]
        annotated = draw_boxes(image, example.boxes, labels, texts, self.font)
        best = sorted(found, key=lambda each: -each["score"])
        shown = [each for rank, each in enumerate(best) if rank < FIRST or each["score"] >= THRESHOLD]
        label_of = {category: label for label, category in enumerate(self.source.category_ids)}
        labels = [label_of[each["category_id"]] for each in shown]
        texts = [f"{names.get(label, label)} {each['score']:.2f}" for label, each in zip(labels, shown)]
        boxes = np.array([each["bbox"] for each in shown], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return [annotated, draw_boxes(image, boxes, labels, texts, self.font)]
