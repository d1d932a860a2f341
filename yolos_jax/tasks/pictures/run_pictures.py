"""All that a run draws of itself, none of which may stop it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from yolos_jax.training.task import Evaluated


class Picture(Protocol):
    """One kind of picture. `name` is what its files in the run's folder are called."""

    name: str

    def draw(self, step: int, result: Evaluated | None) -> None:
        """See `training.task.Pictures`; may raise anything."""


class RunPictures:
    """Draws several kinds of pictures. Trouble, such as a full disk, is said once and ends that kind.

    Args:
      workdir: of the run.
      say: prints a sentence.
    """

    def __init__(self, workdir: Path, pictures: Sequence[Picture], say: Callable[[str], object]):
        self.workdir = workdir
        self.say = say
        self._left = list(pictures)

    def draw(self, step: int, result: Evaluated | None) -> None:
        """See `training.task.Pictures`."""
        for picture in [*self._left]:
            try:
                picture.draw(step, result)
            except Exception as error:  # whatever matplotlib, the disk or a damaged line comes up with
                self._left.remove(picture)
                reason = error or type(error).__name__
                self.say(f"note: {self.workdir / picture.name} could not be drawn ({reason})")
