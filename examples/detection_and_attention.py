"""Draws the detections in an image, and the attention of the DET tokens that found them.

python examples/detection_and_attention.py cat.jpg --checkpoint hustvl/yolos-small --out out.png
python examples/detection_and_attention.py demo/digits/val2017/000000006007.png --checkpoint demo/run --out out.png

The second command draws the image in the README and needs `make demo`.
"""

import argparse

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from yolos_jax import Detector
from yolos_jax.inference.drawing import colour_of, text_colour
from yolos_jax.tools.analysis.attention_maps import Seen, look_at

SIDE = 232  # length of the longer side of a panel in pixels
GAP, TITLE = 10, 22
HIDDEN = 0.35  # brightness of pixels without attention


def overlay(image: Image.Image, attention: np.ndarray) -> Image.Image:
    """A greyscale image overlaid with an attention map `[h, w]`; higher attention is brighter."""
    share = Image.fromarray((attention / attention.max()).astype(np.float32))
    weight = np.asarray(share.resize(image.size, Image.Resampling.BICUBIC)).clip(0, 1)
    colours = matplotlib.colormaps["cividis"](weight)[..., :3]
    grey = np.asarray(image.convert("L").convert("RGB")) / 255
    mixed = HIDDEN * grey + (1 - HIDDEN) * colours * (0.4 + 0.6 * grey)
    return Image.fromarray((255 * mixed.clip(0, 1)).astype(np.uint8))


def boxed(image: Image.Image, seen: Seen, token: int, scale: float, label: bool) -> None:
    """Draws a token's box onto an image that is `scale` times as large as the original."""
    pen = ImageDraw.Draw(image)
    left, top, right, bottom = (scale * seen.boxes[token]).tolist()
    colour = colour_of(seen.labels[token]) if label else "white"
    pen.rectangle([left, top, right, bottom], outline=colour, width=2 if label else 1)
    if label:
        text = f" {seen.names[token]} {seen.scores[token]:.2f} "
        middle = max(top - 8, 8)
        pen.rectangle([left, middle - 8, left + pen.textlength(text, font_size=14), middle + 8], fill=colour)
        pen.text((left, middle), text, text_colour(colour), anchor="lm", font_size=14)


def panels(detector: Detector, path: str, threshold: float, most: int) -> list[tuple[str, Image.Image]]:
    """(title, image) pairs: the detections, then up to `most` tokens, highest score first."""
    seen = look_at(detector, path)
    scale = SIDE / max(seen.image.size)
    large = seen.image.resize([round(scale * side) for side in seen.image.size], Image.Resampling.BICUBIC)
    detections = large.copy()
    shown = [("detections", detections)]
    for token in seen.over(threshold).tolist():
        boxed(detections, seen, token, scale, label=True)
        drawn = overlay(large, seen.maps()[:, token].mean(0))
        boxed(drawn, seen, token, scale, label=False)
        shown.append((f'attention for "{seen.names[token]}"', drawn))
    return shown[: 1 + most]


def side_by_side(shown: list[tuple[str, Image.Image]]) -> Image.Image:
    """One image with all panels in a row, each below its title."""
    width, height = shown[0][1].size
    sheet = Image.new("RGB", (len(shown) * (width + GAP), height + TITLE + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for column, (title, image) in enumerate(shown):
        left = column * (width + GAP) + GAP // 2
        pen.text((left + width // 2, TITLE // 2), title, "black", anchor="mm", font_size=12)
        sheet.paste(image, (left, TITLE))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--out", default="out.png")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--tokens", type=int, default=3, help="maximum number of tokens to show (default 3)")
    args = parser.parse_args()
    detector = Detector.load(args.checkpoint)
    side_by_side(panels(detector, args.image, args.threshold, args.tokens)).save(args.out)


if __name__ == "__main__":
    main()
