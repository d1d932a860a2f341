"""Images for a model card: the run's training curves, its validation images, and an example with detections."""

import contextlib
import io
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from yolos_jax.address import copied
from yolos_jax.config.reader import read_recipe
from yolos_jax.config.recipes import DetectionConfig, Recipe
from yolos_jax.images.reading import UnreadableImage, to_rgb
from yolos_jax.inference.detector import Detector
from yolos_jax.tasks.detection import validation_split
from yolos_jax.tasks.pictures.curves import PICTURE
from yolos_jax.tasks.pictures.samples import Samples, spread
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.training.saving import BEST
from yolos_jax.user_files import read_bytes
from yolos_jax.weights.model_card import EXAMPLE

LONGEST = 1333  # maximum long side of a published image, in pixels
QUALITY = 95  # JPEG quality
THRESHOLD = 0.5  # minimum score of the best detection in an example image


def run_pictures(source: str | Path, step: int, examples: bool) -> dict[str, bytes]:
    """Reads the curves of a checkpoint's run and, with `examples`, its latest validation images up to `step`.

    Returns file contents by name, omitting files that the run did not write. Raises `InputError` if one is unreadable.
    """
    run = Path(copied(source)).absolute()
    run = run.parent if run.name == BEST else run
    files = {PICTURE: run / PICTURE}
    sheets = {int(file.stem[5:]): file for file in (run / Samples.name).glob("step-*.jpg") if file.stem[5:].isdigit()}
    earlier = [drawn for drawn in sheets if drawn <= step]
    if examples and earlier:
        files[f"{Samples.name}.jpg"] = sheets[max(earlier)]
    return {name: read_bytes(file) for name, file in files.items() if file.is_file()}


def validation_images(recipe: Recipe, meta: Meta, checkpoint: str) -> Iterator[Image.Image]:
    """Yields the readable images among those that `Samples` draws; raises `InputError` if the data cannot be read."""
    source = validation_split(read_recipe(recipe, DetectionConfig), meta, checkpoint)
    for place in spread(len(source.examples)):
        with contextlib.suppress(UnreadableImage):
            yield source.read(source.examples[place])


def example_pictures(images: Iterable[Image.Image], detector: Detector) -> tuple[dict[str, bytes], float]:
    """Draws the first image with a detection that scores at least `THRESHOLD`, or else the one with the best score.

    Returns:
      The JPEG files by name (none if there are no images), and a threshold that the best detection reaches.
    """
    best, score = b"", -1.0
    for image in images:
        data = jpeg(image)  # as it will be published
        found = float(detector(data, threshold=0.0).scores.max())
        if found > score:
            best, score = data, found
        if score >= THRESHOLD:
            break
    if not best:
        return {}, THRESHOLD
    threshold = THRESHOLD if score >= THRESHOLD else math.floor(100 * score) / 100
    drawn = detector(best, threshold=threshold).draw(best)
    return {EXAMPLE: best, "detections.jpg": jpeg(drawn)}, threshold


def jpeg(image: Image.Image) -> bytes:
    """Encodes an image as an upright RGB JPEG of at most `LONGEST` pixels per side, without metadata such as GPS."""
    clean = Image.fromarray(np.asarray(to_rgb(image)))
    clean.thumbnail((LONGEST, LONGEST))
    out = io.BytesIO()
    clean.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
