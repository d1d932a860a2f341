"""Which files are images, by their names. No jax."""

import os
from collections.abc import Iterator
from pathlib import Path

from yolos_jax.images.reading import image_endings


def is_hidden(name: str) -> bool:
    """Whether a file is hidden, as macOS's `._name` and `.DS_Store` are: such files are never part of a data set."""
    return name.startswith(".")


def images_below(folder: Path, hidden: list[str] | None = None) -> Iterator[str]:
    """Paths, relative to the folder, of the images in it and below, in order; links are followed, once each.

    Names of hidden images are appended to `hidden` instead.
    """
    endings, seen = image_endings(), set()
    for at, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(at)
        folders[:] = [] if real in seen else sorted(name for name in folders if not is_hidden(name))
        if real in seen:
            continue
        seen.add(real)
        inside = os.path.relpath(at, folder)
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in endings:
                path = name if inside == "." else os.path.join(inside, name)
                if not is_hidden(name):
                    yield path
                elif hidden is not None:
                    hidden.append(path)
