"""The font for class names in drawn images and figures: DejaVu Sans from matplotlib, or the user's font file."""

import functools
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import ImageFont

from yolos_jax.errors import InputError, counted

SHOWN = 12  # maximum number of missing letters listed in a note


def font_of(pixels: int, font: str = "") -> ImageFont.FreeTypeFont:
    """A font of the given size from a file, or DejaVu Sans for ""; `InputError` if the file is not a font."""
    return _opened(font or _shipped(), pixels)


@functools.lru_cache(256)
def _opened(file: str, pixels: int) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(file, pixels)
    except (OSError, ValueError) as error:
        raise InputError(f"the font {file} cannot be read ({error}); use a .ttf, .otf or .ttc file.") from error


@functools.cache
def _shipped() -> str:
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@functools.cache
def _letters(file: str) -> Any:
    from matplotlib.ft2font import FT2Font

    return FT2Font(file)


def missing_letters(texts: Iterable[str], font: str = "") -> list[str]:
    """The distinct letters in `texts` for which the font has no glyph."""
    font_of(10, font)  # raises if it is not a font
    file = _letters(font or _shipped())
    letters = sorted({letter for text in texts for letter in text if not letter.isspace()})
    return [x for x in letters if unicodedata.category(x) != "Cs" and not file.get_char_index(ord(x))]


def missing_note(texts: Iterable[str], font: str, flag: str) -> str:
    """A note about letters in class names that have no glyph, or ""; `flag` is the option that sets the font."""
    lacking = missing_letters(texts, font)
    if not lacking:
        return ""
    named = "".join(lacking[:SHOWN]) + ("..." if len(lacking) > SHOWN else "")
    letters = f"{counted(len(lacking), 'letter')} in class names ({named})"
    return f"{font or 'DejaVu Sans'} has no glyph for {letters}; choose another font with {flag}"
