"""Draws the figures of a run; a failure never stops the run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from yolos_jax.training.task import Evaluated


class Picture(Protocol):
    """A kind of figure. `name` is the name of its file or folder in the run's folder."""

    name: str

    def draw(self, step: int, result: Evaluated | None) -> None:
        """See `training.task.Pictures`; may raise any exception."""


class RunPictures:
    """Draws several kinds of figures. A failure, such as a full disk, is reported once and disables that kind.

    Args:
      workdir: the run's folder.
      say: prints a message.
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
            except Exception as error:  # from matplotlib, a full disk or a damaged metrics line
                self._left.remove(picture)
                reason = error or type(error).__name__
                self.say(f"note: {self.workdir / picture.name} could not be drawn ({reason})")
