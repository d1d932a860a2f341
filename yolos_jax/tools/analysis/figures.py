"""Draws the figures of the analyses with matplotlib, which is imported when the first figure is drawn.

Series differ in markers as well as colours, and the brightness of the colour map ("cividis") increases monotonically,
so figures are legible in black and white and for colour-blind readers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from yolos_jax.images.sequence import ceil_div
from yolos_jax.tasks.pictures.plotting import new_figure
from yolos_jax.tools.analysis.correlation import SPANS, Correlations
from yolos_jax.tools.analysis.positions import Likeness
from yolos_jax.tools.analysis.tokens import SIZES, TokenTable

MAP = "cividis"
# The paper's blue, green and red, in the shades of the Okabe-Ito palette.
INK = {"small": ("#0072b2", "o"), "medium": ("#009e73", "^"), "large": ("#d55e00", "s")}
ENLARGEMENTS = {"nearest": Image.Resampling.NEAREST, "smooth": Image.Resampling.BICUBIC}
COLUMNS = 5  # panels per row
ENLARGED = (240, 240)  # size in pixels to which every map is enlarged


def attention_figure(
    image: Image.Image,
    rows: Sequence[tuple[str, np.ndarray, Sequence[str], np.ndarray]],
    enlarge: Sequence[str] = tuple(ENLARGEMENTS),
) -> Any:
    """Draws a token's attention and box over an image, with one line of panels for each row and enlargement.

    Args:
      image: the image that was analysed.
      rows: (title, maps `[n, h, w]`, names of the maps, box `[4]` xyxy in pixels) of each compared detector.
      enlarge: keys of ENLARGEMENTS.
    """
    lines = [(row, kind) for row in rows for kind in enlarge]
    most = max(len(maps) for _, maps, _, _ in rows)
    ratio = np.clip(image.height / image.width, 0.4, 2.5)
    width, height = 1.7 * (1 + most) + 0.3, (1.7 * ratio + 0.35) * len(lines) + 0.2
    figure, axes = new_figure(width, height, len(lines), 1 + most)
    grey = np.asarray(image.convert("L"))
    extent = (0, image.width, image.height, 0)
    for line, ((title, maps, names, box), kind) in zip(axes, lines):
        for place, axis in enumerate(line):
            axis.set_axis_off()
            if place > len(maps):
                continue
            shown = np.asarray(image) if place == 0 else grey
            axis.imshow(shown, cmap="gray", vmin=0, vmax=255, extent=extent)
            if place:
                values = maps[place - 1]
                # Enlarged here, because matplotlib's own smoothing flattens a single bright patch.
                large = np.asarray(Image.fromarray(values).resize(ENLARGED, ENLARGEMENTS[kind]))
                axis.imshow(large, cmap=MAP, alpha=0.75, extent=extent, vmin=0, vmax=float(values.max()))
            _box(axis, box)
            axis.set_xlim(0, image.width)
            axis.set_ylim(image.height, 0)
            axis.set_title([title, *names][place], fontsize=7)
    return figure


def _box(axis: Any, box: np.ndarray) -> None:
    """Draws a box that is visible on light and dark backgrounds."""
    from matplotlib.patches import Rectangle

    x0, y0, x1, y1 = (float(v) for v in box)
    for colour, width in (("black", 2.4), ("white", 1.0)):
        axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=width))


def tokens_figure(table: TokenTable) -> Any:
    """Draws the box centres of the first tokens, one point per image, coloured by box size (the paper's Figure 2)."""
    drawn = table.drawn
    count = len(drawn.sizes)
    columns = min(COLUMNS, count)
    lines = ceil_div(count, columns)
    figure, axes = new_figure(2.1 * columns, 2.2 * lines + 0.4, lines, columns)
    for token, axis in enumerate(axes.flat):
        if token >= count:
            axis.set_axis_off()
            continue
        for size, name in reversed(list(enumerate(SIZES))):  # large boxes are drawn first
            colour, mark = INK[name]
            points = drawn.centres[token][drawn.sizes[token] == size]
            axis.scatter(*points.T, s=5, c=colour, marker=mark, linewidths=0, alpha=0.7, label=name)
        axis.set(xlim=(0, 1), ylim=(1, 0), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")
        axis.set_title(f"token {token}", fontsize=8)
        axis.tick_params(labelsize=6)
    marks, names = axes.flat[0].get_legend_handles_labels()
    place = {"loc": "outside lower center", "ncols": 3, "fontsize": 8, "markerscale": 2}
    figure.legend(marks[::-1], names[::-1], **place)
    return figure


def classes_figure(rows: Sequence[dict[str, Any]]) -> Any:
    """Draws each class's fraction of the boxes and of the tokens' predictions on a log scale (the paper's Figure 3)."""
    figure, ((axis,),) = new_figure(max(5.0, 0.13 * len(rows) + 1.5), 3.2)
    places = np.arange(len(rows))
    annotated = np.array([row["annotated_share"] for row in rows])
    predicted = np.array([row["predicted_share"] for row in rows])
    axis.bar(places, annotated, color="#bbbbbb", label="annotated")
    axis.plot(places, np.where(predicted > 0, predicted, np.nan), "o", color="#0072b2", ms=4, label="predicted")
    axis.set_yscale("log")
    axis.set_ylabel("fraction of the total", fontsize=8)
    axis.set_xticks(places, [row["name"] for row in rows], rotation=90, fontsize=6)
    axis.tick_params(axis="y", which="both", labelsize=7)
    axis.margins(x=0.01)
    axis.legend(fontsize=8)
    return figure


def correlation_figure(found: Correlations) -> Any:
    """Draws all pairs in all images: the tokens' cosine against the boxes' distance and the classifier's cosine."""
    from matplotlib.colors import LogNorm

    figure, axes = new_figure(7.5, 3.3, 1, 2)
    names = ("distance between centres (fractions of the sides)", "cosine of the classifier's last hidden layer")
    for axis, counts, name, span in zip(axes.flat, found.scatter, names, SPANS, strict=True):
        shown = np.ma.masked_equal(counts.T, 0)
        most = max(int(counts.max()), 2)
        drawn = axis.imshow(
            shown, origin="lower", extent=(-1, 1, *span), aspect="auto", cmap=f"{MAP}_r", norm=LogNorm(1, most),
            interpolation="nearest",
        )  # fmt: skip
        axis.grid(False)
        axis.set_xticks((-1, -0.5, 0, 0.5, 1))
        axis.set_xlabel(f"cosine of tokens, {found.shown}", fontsize=8)
        axis.set_ylabel(name, fontsize=8)
        axis.tick_params(labelsize=7)
        figure.colorbar(drawn, ax=axis, label="pairs").ax.tick_params(labelsize=7)
    return figure


def positions_figure(found: Likeness) -> Any:
    """Draws the similarity of all patches to each chosen patch, which is marked with a cross."""
    rows, columns = (len(np.unique(found.places[:, axis])) for axis in (0, 1))
    h, w = found.maps.shape[1:]
    figure, axes = new_figure(1.3 * columns + 0.9, 1.3 * rows * min(h / w, 2) + 0.7, rows, columns)
    for axis, (y, x), values in zip(axes.flat, found.places, found.maps):
        drawn = axis.imshow(values, cmap=MAP, vmin=-1, vmax=1, interpolation="nearest")
        axis.plot(x, y, "+", color="white", ms=7, mew=2.5)
        axis.plot(x, y, "+", color="black", ms=6, mew=1)
        axis.set(xticks=(), yticks=())
        axis.grid(False)
    figure.colorbar(drawn, ax=axes, label="cosine").ax.tick_params(labelsize=7)
    figure.suptitle(f"position embeddings, {found.name}, {h} x {w} patches", fontsize=9)
    return figure
