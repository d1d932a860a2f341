"""The detections in one image, and their conversion to other formats. Does not import jax."""

import dataclasses
from typing import Any

import numpy as np
from PIL import Image

from yolos_jax.errors import InputError
from yolos_jax.images.reading import ImageLike, read_rgb
from yolos_jax.inference.drawing import draw_boxes


@dataclasses.dataclass(frozen=True, eq=False)
class Detections:
    """The detections in one image, sorted by descending score; `len` is the number of objects.

    Boxes may extend slightly beyond the image's edges, as in the reference.
    """

    boxes: np.ndarray  # float32 [n, 4], xyxy in pixels of the original image
    scores: np.ndarray  # float32 [n], probability of the label, 0..1
    labels: np.ndarray  # [n], category ids
    names: list[str]  # names of the labels; the id as text if the checkpoint has no name for it
    size: tuple[int, int]  # (width, height) of the upright image

    def __len__(self) -> int:
        return len(self.scores)

    def draw(self, image: ImageLike, font: str = "") -> Image.Image:
        """Draws the detections on an RGB copy of their image (any input of `Detector`); enlarges small images.

        `font` is a font file for the names; the default is DejaVu Sans. Raises `UnreadableImage` if the image cannot be
        read, and `InputError` if it has a different size or the font cannot be read.
        """
        upright = read_rgb(image)
        if upright.size != self.size:
            sizes = ["{}x{}".format(*size) for size in (upright.size, self.size)]
            raise InputError(f"the image has {sizes[0]} pixels, but these detections are for one with {sizes[1]}.")
        texts = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores)]
        return draw_boxes(upright, self.boxes, self.labels, texts, font)

    def to_dict(self) -> dict[str, Any]:
        """A JSON dict of `width`, `height` and `objects`, dicts of `label`, `name`, `score` and `box` (as `boxes`)."""
        found = zip(self.labels.tolist(), self.names, self.scores.tolist(), self.boxes.tolist())
        objects = [{"label": label, "name": name, "score": score, "box": box} for label, name, score, box in found]
        return {"width": self.size[0], "height": self.size[1], "objects": objects}

    def to_supervision(self) -> Any:
        """Converts to `supervision.Detections` with `data["class_name"]`; `InputError` if it is not installed."""
        try:
            import supervision
        except ImportError as error:
            raise InputError("supervision is not installed; run pip install 'yolos-jax[supervision]'.") from error
        names = {"class_name": np.array(self.names, str)}
        labels = self.labels.astype(int)
        return supervision.Detections(xyxy=self.boxes, confidence=self.scores, class_id=labels, data=names)
