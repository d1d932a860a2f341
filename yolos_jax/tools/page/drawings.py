"""Draws the page's images: boxes, attention over an image, and all heads side by side."""

import numpy as np
from PIL import Image, ImageDraw

from yolos_jax.inference.contact_sheet import contact_sheet
from yolos_jax.inference.drawing import draw_boxes, enlargement, font_size, inside, line_width, padding
from yolos_jax.inference.fonts import font_of
from yolos_jax.tools.analysis.attention_maps import Seen
from yolos_jax.tools.page.viewer import choices

LONGEST = 1280  # maximum long side of a displayed image, in pixels
BLENDED = 0.7  # opacity of the attention over the grey image
COLOUR_MAP = "cividis"  # brightness increases with the value, so colour-blind users can read it


def enlarged(image: Image.Image) -> tuple[Image.Image, float]:
    """Returns the image at its displayed size, and the scale factor."""
    factor = min(LONGEST / max(image.size), enlargement(image.size))
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image if size == image.size else image.resize(size), factor


def with_boxes(seen: Seen, threshold: float, font: str = "") -> Image.Image:
    """Draws the boxes of the tokens with at least this score, labelled with token, class name and score."""
    image, factor = enlarged(seen.image)
    tokens = seen.over(threshold)
    texts = [f"#{i} {seen.names[i]} {seen.scores[i]:.2f}" for i in tokens]
    return draw_boxes(image, seen.boxes[tokens] * factor, seen.labels[tokens], texts, font)


def rows_over(seen: Seen, threshold: float) -> list[list]:
    """Table rows of the tokens with at least this score: number, class, score, and box in whole pixels."""
    rows = []
    for i in seen.over(threshold):
        corners = ", ".join(str(round(float(v))) for v in seen.boxes[i])
        rows.append([int(i), seen.names[i], round(float(seen.scores[i]), 3), corners])
    return rows


def attention_overlay(seen: Seen, weights: np.ndarray, token: int, smooth: bool) -> Image.Image:
    """Draws attention over the grey image, with the token's box.

    Args:
      weights: float `[h, w]`, one for each patch; the largest gets the brightest colour.
      smooth: whether to interpolate between patches.
    """
    from matplotlib import colormaps

    image, factor = enlarged(seen.image)
    kind = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    heat = np.asarray(Image.fromarray(np.float32(weights)).resize(image.size, kind))
    strength = np.clip(heat / max(float(heat.max()), 1e-12), 0, 1)
    grey = np.asarray(image.convert("L"), np.float32)[..., None]
    mixed = (1 - BLENDED) * grey + BLENDED * 255 * colormaps[COLOUR_MAP](strength)[..., :3]
    out = Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))
    (corners,) = inside(seen.boxes[[token]] * factor, image.size).tolist()
    pen, width = ImageDraw.Draw(out), line_width(image.size)
    pen.rectangle(corners, outline=(0, 0, 0), width=2 * width)
    pen.rectangle(corners, outline=(255, 255, 255), width=width)
    return out


def attention_of(seen: Seen, token: int, layer: int, head: int | None, smooth: bool) -> Image.Image:
    """Draws a token's attention in a block, for one head or, if `head` is None, averaged over all heads."""
    maps = seen.maps(layer)[:, token].astype(np.float32)
    return attention_overlay(seen, maps.mean(0) if head is None else maps[head], token, smooth)


def all_heads(seen: Seen, token: int, layer: int, smooth: bool) -> Image.Image:
    """Draws the attention of all heads side by side, labelled with their numbers."""
    images = []
    for head, weights in enumerate(seen.maps(layer)[:, token]):
        image = attention_overlay(seen, weights, token, smooth)
        font = font_of(2 * font_size(image.size))
        left, top, right, bottom = font.getbbox(f"head {head}")
        pad = padding(font)
        pen = ImageDraw.Draw(image)
        pen.rectangle((0, 0, right - left + 2 * pad, bottom - top + 2 * pad), fill=(0, 0, 0))
        pen.text((pad - left, pad - top), f"head {head}", fill=(255, 255, 255), font=font)
        images.append(image)
    return contact_sheet(images, side=320)


def token_summary(seen: Seen, token: int, layer: int, statistics: dict[str, str]) -> str:
    """Describes a token in markdown."""
    texts = {number: text for text, number in choices(seen)}
    x0, y0, x1, y1 = (round(float(v)) for v in seen.boxes[token])
    to_patches = seen.maps(layer)[:, token].astype(np.float32).sum((1, 2))
    lines = [
        f"**Token {texts[token]}**",
        f"- box: {x0}, {y0} to {x1}, {y1} pixels",
        f"- layer {layer} (counted from 0): {to_patches.mean():.0%} of its attention goes to patches, the rest to "
        "other tokens",
    ]
    if statistics:
        values = [f"{name} {value}" for name, value in statistics.items()]
        lines.append(f"- over the data set: {', '.join(values)}")
    return "\n".join(lines)
