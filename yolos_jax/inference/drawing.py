"""Draws boxes and labels onto an image; scales labels with the image and prevents overlaps."""

import colorsys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from yolos_jax.images.sequence import ceil_div
from yolos_jax.inference.fonts import font_of

LEGIBLE = 480  # images whose long side has fewer pixels are enlarged before drawing
SMALLEST = 8  # minimum font size in pixels; smaller text is illegible
# Saturation and value alternate between labels, so that close hues differ in brightness.
SHADES = ((0.85, 1.0), (1.0, 0.6), (0.5, 1.0))

Colour = tuple[int, int, int]


class Label(NamedTuple):
    """A label's text, font and rectangle (x0, y0, x1, y1 in pixels, the last two exclusive)."""

    text: str
    font: ImageFont.FreeTypeFont
    rectangle: tuple[int, ...]


def draw_boxes(
    image: Image.Image, boxes: np.ndarray, classes: Iterable[int], texts: Sequence[str], font: str = ""
) -> Image.Image:
    """Returns a copy of an RGB image with boxes and labels drawn on it; enlarges small images.

    Args:
      boxes: float `[n, 4]`, xyxy in pixels of the image, best first.
      classes: `[n]`, integers that determine the colours.
      texts: `[n]`, label texts. Labels that do not fit are omitted.
      font: a font file; the default is DejaVu Sans.
    """
    factor = enlargement(image.size)
    out = image.resize((image.width * factor, image.height * factor)) if factor > 1 else image.copy()
    corners = inside(np.asarray(boxes, np.float64).reshape(-1, 4) * factor, out.size)
    colours = [colour_of(int(label)) for label in classes]
    pen, width = ImageDraw.Draw(out), line_width(out.size)
    for corner, colour in reversed(list(zip(corners, colours))):  # the best boxes are on top
        pen.rectangle([int(v) for v in corner], outline=colour, width=width)
    for label, colour in zip(place_labels(out.size, corners, texts, font), colours):
        if label is not None:
            x0, y0, x1, y1 = label.rectangle
            left, top, _, _ = label.font.getbbox(label.text)
            start = x0 + padding(label.font) - left, y0 + padding(label.font) - top
            pen.rectangle((x0, y0, x1 - 1, y1 - 1), fill=colour)
            pen.text(start, label.text, fill=text_colour(colour), font=label.font)
    return out


def enlargement(size: tuple[int, int]) -> int:
    """The integer factor by which an image of size (width, height) is enlarged."""
    return ceil_div(LEGIBLE, max(size))


def inside(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """int `[n, 4]`, first and last pixels of the boxes, clipped to an image of size (width, height)."""
    corners = np.clip(np.round(boxes), 0, np.tile(size, 2) - 1).astype(int)
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2])
    return corners


def font_size(size: tuple[int, int]) -> int:
    """Font size in pixels: grows with the long side of the image, but is at most a third of the short side."""
    return max(SMALLEST, min(round(max(size) / 42), min(size) // 3))


def line_width(size: tuple[int, int]) -> int:
    """Line width of boxes in pixels for an image of size (width, height)."""
    return max(2, round(max(size) / 320))


def colour_of(label: int) -> Colour:
    """A saturated colour; consecutive labels get distant hues (golden ratio) and different shades."""
    saturation, value = SHADES[label % len(SHADES)]
    r, g, b = colorsys.hsv_to_rgb(label * 0.618034 % 1.0, saturation, value)
    return round(r * 255), round(g * 255), round(b * 255)


def text_colour(background: Colour) -> Colour:
    """Black or white, whichever has the higher contrast under WCAG 2.1: at least 4.58 for any colour."""
    shares = np.array(background) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    return (0, 0, 0) if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else (255, 255, 255)


def place_labels(
    size: tuple[int, int], corners: np.ndarray, texts: Sequence[str], font: str = ""
) -> list[Label | None]:
    """Places labels inside the image, without overlap and close to their boxes.

    Labels are placed in the given order. A label is None if there is no free position for it.
    """
    out: list[Label | None] = []
    taken = np.zeros((0, 4), int)
    for corner, text in zip(corners, texts):
        text = " ".join(text.split())
        sized, shape = fit(text, size, font)
        spots = candidates(corner, shape, size)
        places = np.concatenate([spots, spots + np.array(shape)], axis=1)
        one, other = places[:, None], taken[None]
        apart = (one[..., 2:] <= other[..., :2]) | (other[..., 2:] <= one[..., :2])
        free = places[apart.any(-1).all(-1)][:1]
        taken = np.concatenate([taken, free])
        out.append(Label(text, sized, tuple(free[0].tolist())) if len(free) else None)
    return out


def fit(text: str, size: tuple[int, int], name: str = "") -> tuple[ImageFont.FreeTypeFont, tuple[int, int]]:
    """A label's font, from the file `name`, and its (width, height); shrinks the font for text wider than the image."""
    pixels = font_size(size)
    while True:
        font = font_of(pixels, name)
        left, top, right, bottom = font.getbbox(text)
        width, height = (round(length) + 2 * padding(font) for length in (right - left, bottom - top))
        if pixels <= SMALLEST or width <= size[0]:
            return font, (min(width, size[0]), min(height, size[1]))
        pixels = max(SMALLEST, min(pixels - 1, pixels * size[0] // width))


def padding(font: ImageFont.FreeTypeFont) -> int:
    """Padding around a label's text in pixels."""
    return max(2, round(font.size / 6))


def candidates(corner: np.ndarray, label: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """int `[m, 2]`, possible positions of a label's upper left corner inside the image, best first.

    In order: above the box, inside its top, below it, inside its bottom; the same four, aligned with the box's right
    edge; then anywhere in the image, by distance from the first position.
    """
    x0, y0, x1, y1 = (int(v) for v in corner)
    width, height = label
    limits = np.subtract(size, label)
    rows = (y0 - height, y0, y1 + 1, y1 + 1 - height)
    close = np.array([(x, y) for x in (x0, x1 + 1 - width) for y in rows])
    close = close[((close >= 0) & (close <= limits)).all(1)]
    steps = height, max(1, height // 2)
    # Includes the limits, so that the last row and column are used
    xs, ys = (np.append(np.arange(0, most, step), most) for most, step in zip(limits, steps))
    others = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    distance = np.abs(others - (x0, y0 - height)) @ (1, 2)  # a horizontal shift is easier to follow than a vertical one
    return np.concatenate([close, others[np.argsort(distance, kind="stable")]])
