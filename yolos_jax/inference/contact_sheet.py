"""Arranges several images in rows on one page."""

from collections.abc import Sequence

from PIL import Image

from yolos_jax.images.sequence import ceil_div

COLUMNS, SIDE, GAP = 4, 480, 8  # images per row; width of a cell and gap between cells in pixels
BACKGROUND = (255, 255, 255)


def contact_sheet(images: Sequence[Image.Image], columns: int = COLUMNS, side: int = SIDE) -> Image.Image:
    """Arranges one or more RGB images in rows of `columns`, keeping their aspect ratios.

    The longer side of each image becomes `side` pixels. Cells are `side` pixels wide and as high as the tallest image.
    """
    columns = min(columns, len(images))
    rows = ceil_div(len(images), columns)
    small = [_resized(image, side) for image in images]
    height = max(image.height for image in small)
    size = (columns * (side + GAP) + GAP, rows * (height + GAP) + GAP)
    sheet = Image.new("RGB", size, BACKGROUND)
    for place, image in enumerate(small):
        row, column = divmod(place, columns)
        left = GAP + column * (side + GAP) + (side - image.width) // 2
        top = GAP + row * (height + GAP) + (height - image.height) // 2
        sheet.paste(image, (left, top))
    return sheet


def _resized(image: Image.Image, side: int) -> Image.Image:
    """Resizes an image so that its longer side is `side` pixels."""
    factor = side / max(image.size)
    return image.resize([max(1, round(length * factor)) for length in image.size])
