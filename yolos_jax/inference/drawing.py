"""Boxes with names and scores, drawn onto an image."""

import colorsys

from PIL import Image, ImageDraw, ImageFont

from yolos_jax.inference.detector import Detections

LEGIBLE = 480  # pixels of the long side below which an image is enlarged before drawing


def colour_of(label: int) -> tuple[int, int, int]:
    """A bright colour; labels next to each other get far apart hues (golden ratio)."""
    r, g, b = colorsys.hsv_to_rgb(label * 0.618034 % 1.0, 0.85, 1.0)
    return int(r * 255), int(g * 255), int(b * 255)


def draw(image: Image.Image, found: Detections) -> Image.Image:
    """A copy of the RGB image with the detections drawn on it, small images enlarged."""
    factor = max(1, -(-LEGIBLE // max(image.size)))
    out = image.resize((image.width * factor, image.height * factor)) if factor > 1 else image.copy()
    unit = max(out.size) / 640
    pen, font = ImageDraw.Draw(out), ImageFont.load_default(size=max(10, round(14 * unit)))
    for box, score, label, name in zip(found.boxes[::-1], found.scores[::-1], found.labels[::-1], found.names[::-1]):
        colour = colour_of(int(label))
        x0, y0, x1, y1 = (float(v) * factor for v in box)
        pen.rectangle((x0, y0, max(x1, x0), max(y1, y0)), outline=colour, width=max(2, round(2 * unit)))
        text = f"{name} {score:.2f}"
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        # Above the box, but never outside the image
        x = min(max(x0, 0), max(out.width - (right - left) - 4, 0))
        y = min(max(y0 - (bottom - top) - 4, 0), max(out.height - (bottom - top) - 4, 0))
        pen.rectangle((x, y, x + right - left + 4, y + bottom - top + 4), fill=colour)
        pen.text((x + 2 - left, y + 2 - top), text, fill=(0, 0, 0), font=font)
    return out
