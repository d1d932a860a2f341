"""Images of 16 bits that hold fewer: they become almost black."""

from collections.abc import Sequence

import numpy as np

from yolos_jax.datasets.upright import named
from yolos_jax.images.headers import read_headers
from yolos_jax.images.reading import UnreadableImage, brightest, open_rgb

DARK = 2**6  # of 256: what 14 of 16 bits reach at most
_LOOKED_AT = 8  # images decoded before a run
HELP = "set data.sixteen_bit=stretch to make each image's own maximum white"


def is_dark(file: str) -> bool:
    """Whether a file of 16 bits becomes almost black; False if it cannot be read."""
    try:
        return brightest(open_rgb(file)) < DARK
    except UnreadableImage:
        return False


def dark_note(files: Sequence[str], origin: str) -> tuple[str, ...]:
    """A sentence if some of a few of these files of 16 bits become almost black."""
    places = np.unique(np.linspace(0, len(files) - 1, min(_LOOKED_AT, len(files))).astype(int))
    dark = [files[i] for i in places if is_dark(files[i])]
    if not dark:
        return ()
    looked = f"{len(dark)} of {len(places)} that were looked at (of {len(files)} in all) become almost black"
    return (f"images of 16 bits of {origin} hold fewer: {looked}, such as {named(dark)}; {HELP}",)


def dark_files(files: Sequence[str]) -> list[str]:
    """Those of 16 bits that become almost black, each decoded."""
    return [file for file, header in zip(files, read_headers(files)) if header.sixteen and is_dark(file)]
