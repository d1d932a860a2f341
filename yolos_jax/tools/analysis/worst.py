"""The images in which a detector errs most, drawn: the truth beside what was found."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from yolos_jax.errors import InputError, make_folder
from yolos_jax.images.reading import UnreadableImage
from yolos_jax.inference.drawing import draw_boxes
from yolos_jax.tools.analysis.cases import Case
from yolos_jax.tools.analysis.csv_files import write_csv
from yolos_jax.tools.analysis.error_kinds import KINDS, NONE, errors_of
from yolos_jax.tools.contact_sheet import contact_sheet

DRAWN = 12  # images


class Faults(NamedTuple):
    """An image's detections above a score, counted."""

    case: Case
    right: int
    false: int
    missed: int

    @property
    def f1(self) -> float:
        """Share of what is right, 0..1; 1 for an image in which nothing is, or was found."""
        all_of_them = 2 * self.right + self.false + self.missed
        return 2 * self.right / all_of_them if all_of_them else 1.0


def faults_of(case: Case, threshold: float) -> Faults:
    """What is right, false and missed in an image if only detections with so high a score are shown."""
    shown = case.scores >= threshold
    right = int((shown & case.right).sum())
    false = int((shown & ~case.right & ~case.ignored).sum())
    return Faults(case, right, false, int((~case.crowd).sum()) - right)


def ranked(cases: Sequence[Case], threshold: float) -> list[Faults]:
    """All images, the lowest F1 first, then those with more errors; at the end those without an error."""
    return sorted((faults_of(c, threshold) for c in cases), key=lambda f: (f.f1, -f.false - f.missed, f.case.image_id))


def draw(
    folder: Path, cases: Sequence[Case], names: Sequence[str], read: Callable[[int], Any], threshold: float
) -> list[str]:
    """Writes `worst.csv`, which ranks all images, and draws the first ones that have an error into `worst/`.

    Args:
      names: of the labels.
      read: (image id) -> the RGB image.

    Returns:
      A sentence for each image that cannot be read.
    """
    order, skipped = ranked(cases, threshold), []
    columns = {
        "rank": range(1, len(order) + 1),
        "image_id": [f.case.image_id for f in order],
        "f1": [f.f1 for f in order],
        "right": [f.right for f in order],
        "false": [f.false for f in order],
        "missed": [f.missed for f in order],
    }
    write_csv(folder / "worst.csv", columns)
    pages = make_folder(folder / "worst")
    for page in pages.glob("[0-9][0-9]_*.png"):  # of an earlier evaluation
        page.unlink()
    for rank, faults in enumerate([f for f in order if f.f1 < 1][:DRAWN], 1):
        try:
            image = read(faults.case.image_id)
        except (InputError, UnreadableImage) as error:
            skipped.append(f"not drawn: {error}")
            continue
        sheet = contact_sheet(
            [_truth(image, faults.case, names, threshold), _found(image, faults.case, names, threshold)]
        )
        sheet.save(pages / f"{rank:02}_{faults.case.image_id}.png")
    return skipped


def _truth(image: Any, case: Case, names: Sequence[str], threshold: float) -> Any:
    """The objects; those that no shown detection found are called missed."""
    found = set(case.taken[(case.scores >= threshold) & (case.taken >= 0)].tolist())
    words = [
        f"{names[label]}{' (crowd)' if crowd else '' if i in found else ' (missed)'}"
        for i, (label, crowd) in enumerate(zip(case.true_labels, case.crowd))
    ]
    return draw_boxes(image, case.true_boxes, case.true_labels, words)


def _found(image: Any, case: Case, names: Sequence[str], threshold: float) -> Any:
    """The shown detections, wrong ones with the kind of their error."""
    shown, kinds = case.scores >= threshold, errors_of(case).kinds
    words = [
        f"{names[label]} {score:.2f}{'' if kind == NONE else f' ({KINDS[kind]})'}"
        for label, score, kind in zip(case.labels[shown], case.scores[shown], kinds[shown])
    ]
    return draw_boxes(image, case.boxes[shown], case.labels[shown], words)
