"""Draws the images with the most errors: ground truth and detections side by side."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from yolos_jax.errors import InputError, make_folder
from yolos_jax.images.reading import UnreadableImage
from yolos_jax.inference.contact_sheet import contact_sheet
from yolos_jax.inference.drawing import draw_boxes
from yolos_jax.tools.analysis.error_kinds import KINDS, NONE, errors_of
from yolos_jax.tools.analysis.matched_images import MatchedImage
from yolos_jax.tools.analysis.tables import write_csv

DRAWN = 12  # number of images to draw


class Faults(NamedTuple):
    """Numbers of correct detections, false detections and missed objects in an image."""

    image: MatchedImage
    right: int
    false: int
    missed: int

    @property
    def f1(self) -> float:
        """F1 score, 0..1; 1 for an image without objects or detections."""
        total = 2 * self.right + self.false + self.missed
        return 2 * self.right / total if total else 1.0


def faults_of(image: MatchedImage, threshold: float) -> Faults:
    """Counts the detections of an image with at least this score that are correct or false, and the missed objects."""
    shown = image.scores >= threshold
    right = int((shown & image.right).sum())
    false = int((shown & ~image.right & ~image.ignored).sum())
    return Faults(image, right, false, int((~image.crowd).sum()) - right)


def ranked(images: Sequence[MatchedImage], threshold: float) -> list[Faults]:
    """All images, sorted by increasing F1, then by decreasing number of errors; images without errors come last."""
    faults = [faults_of(image, threshold) for image in images]
    return sorted(faults, key=lambda f: (f.f1, -f.false - f.missed, f.image.image_id))


def draw_worst(
    folder: Path,
    images: Sequence[MatchedImage],
    names: Sequence[str],
    read: Callable[[int], Any],
    threshold: float,
    font: str = "",
) -> list[str]:
    """Writes `worst.csv`, which ranks all images, and draws the first images with errors into `worst/`.

    Args:
      names: class names by label.
      read: returns the RGB image with a given id.
      font: see `draw_boxes`.

    Returns:
      A message for each image that cannot be read.
    """
    order = ranked(images, threshold)
    columns: dict[str, Any] = {
        "rank": range(1, len(order) + 1),
        "image_id": [faults.image.image_id for faults in order],
    }
    for name in ("f1", "right", "false", "missed"):
        columns[name] = [getattr(faults, name) for faults in order]
    write_csv(folder / "worst.csv", columns)
    pages = make_folder(folder / "worst")
    for page in pages.glob("[0-9][0-9]_*.png"):  # left by an earlier evaluation
        page.unlink()
    skipped = []
    with_errors = [faults.image for faults in order if faults.f1 < 1]
    for rank, image in enumerate(with_errors[:DRAWN], 1):
        try:
            pixels = read(image.image_id)
        except (InputError, UnreadableImage) as error:
            skipped.append(f"not drawn: {error}")
            continue
        shared = image, names, threshold, font
        sheet = contact_sheet([_truth(pixels, *shared), _found(pixels, *shared)])
        sheet.save(pages / f"{rank:02}_{image.image_id}.png")
    return skipped


def _truth(pixels: Any, image: MatchedImage, names: Sequence[str], threshold: float, font: str) -> Any:
    """Draws the objects; those without a matching detection above the threshold are labelled missed."""
    found = set(image.taken[(image.scores >= threshold) & (image.taken >= 0)].tolist())
    words = []
    for i, (label, crowd) in enumerate(zip(image.true_labels, image.crowd)):
        missed = "" if i in found else " (missed)"
        words.append(names[label] + (" (crowd)" if crowd else missed))
    return draw_boxes(pixels, image.true_boxes, image.true_labels, words, font)


def _found(pixels: Any, image: MatchedImage, names: Sequence[str], threshold: float, font: str) -> Any:
    """Draws the detections above the threshold; wrong ones are labelled with the kind of error."""
    shown, kinds = image.scores >= threshold, errors_of(image).kinds
    words = []
    for label, score, kind in zip(image.labels[shown], image.scores[shown], kinds[shown]):
        error = "" if kind == NONE else f" ({KINDS[kind]})"
        words.append(f"{names[label]} {score:.2f}{error}")
    return draw_boxes(pixels, image.boxes[shown], image.labels[shown], words, font)
