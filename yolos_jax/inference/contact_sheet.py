"""Many images on one page, in rows."""

from collections.abc import Sequence

from PIL import Image

from yolos_jax.images.sequence import ceil_div

COLUMNS, SIDE, GAP = 4, 480, 8  # images of a row; pixels of a cell and between cells
BACKGROUND = (255, 255, 255)


def contact_sheet(images: Sequence[Image.Image], columns: int = COLUMNS, side: int = SIDE) -> Image.Image:
    """RGB images in rows of `columns`, each inside a cell of `side` pixels, the shape of each kept; at least one."""
    columns = min(columns, len(images))
    width, height = (count * (side + GAP) + GAP for count in (columns, ceil_div(len(images), columns)))
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    for place, image in enumerate(images):
        factor = side / max(image.size)
        small = image.resize([max(1, round(length * factor)) for length in image.size])
        row, column = divmod(place, columns)
        left, top = (GAP + number * (side + GAP) for number in (column, row))
        sheet.paste(small, (left + (side - small.width) // 2, top + (side - small.height) // 2))
    return sheet
