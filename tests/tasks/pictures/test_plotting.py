"""Tests that figures do not parse user text as math, and that they use the requested font."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from made_detections import hand_made
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.text import Text
from PIL import Image

import yolos_jax
from yolos_jax.evaluation.coco_metrics import scored
from yolos_jax.tasks.pictures.curves import Panel, draw_panels
from yolos_jax.tasks.pictures.plotting import new_figure, save_figure
from yolos_jax.tools.analysis import results_figures

FILES = sorted(Path(yolos_jax.__file__).parent.rglob("*.py"))
NAMES = ["$\\frac$", "100% $\\alpha$", "$5 & $10", "a^b_{c $x", "方块", "<b>$x^2$</b>"]


def labelled(text):
    """A figure that contains `text` wherever text from users can appear."""
    figure, ((axis,),) = new_figure(4, 3)
    axis.plot([1, 2, 3], label=text)
    axis.set_xticks([0, 1], [text, text], rotation=90)
    axis.set_title(text)
    axis.set_xlabel(text)
    axis.text(0.5, 1.5, text)
    axis.annotate(text, (1, 2))
    axis.legend(title=text)
    figure.suptitle(text)
    return figure


@pytest.mark.parametrize("name", NAMES)
def test_no_text_is_parsed_as_math(tmp_path, name):
    """Every text is drawn unchanged. matplotlib would draw `$5 & $10` as "5&10" and raise an error for `$\\frac$`."""
    figure = labelled(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # there must also be no warnings about missing glyphs
        save_figure(figure, tmp_path / "a.png")
    texts = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_text() == name)
    assert len(texts) >= 9 and not any(text.get_parse_math() or text.get_usetex() for text in texts)
    assert texts[0]._preprocess_math(name) == (name, False)


def test_logarithmic_axes_have_plain_tick_labels(tmp_path):
    figure, ((axis,),) = new_figure(4, 3)
    axis.plot([1, 10, 1000])
    axis.set_yscale("log")
    save_figure(figure, tmp_path / "a.png")
    assert {"1", "10", "100", "1000"} <= {label.get_text() for label in axis.get_yticklabels()}
    assert not any("$" in text.get_text() for text in figure.findobj(Text))


def test_custom_font(tmp_path):
    """The fallback for missing glyphs is DejaVu Sans."""
    mono = findfont(FontProperties(family="DejaVu Sans Mono"))
    figure = labelled("été")
    save_figure(figure, tmp_path / "a.png", mono)
    assert all(text.get_fontfamily() == ["DejaVu Sans Mono", "DejaVu Sans"] for text in figure.findobj(Text))
    save_figure(labelled("été"), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_only_plotting_creates_and_writes_figures():
    """Other modules must use `plotting`, so that its rules apply to all figures."""
    writers = [file.name for file in FILES if "savefig(" in file.read_text()]
    makers = [file.name for file in FILES if "matplotlib.figure" in file.read_text() or "pyplot" in file.read_text()]
    assert writers == makers == ["plotting.py"]


def test_figures_of_an_evaluation(tmp_path):
    """Draws every kind of figure with class names that look like math text, and with a custom font."""
    truth, results = hand_made()
    for category, name in zip(truth["categories"], NAMES):
        category["name"] = name
    _, categories = scored(truth, results)
    mono = findfont(FontProperties(family="DejaVu Sans Mono"))
    results_figures.draw_categories(tmp_path / "a.png", categories, mono)
    results_figures.draw_curves(tmp_path / "b.png", categories, (0.5, 0.75), mono)
    results_figures.draw_confusion(tmp_path / "c.png", np.eye(3, dtype=int), [*categories.names, "none"], 0.5, mono)
    draw_panels([Panel(NAMES[0], [(NAMES[1], [{"step": 1, "x": 2.0}], "x")])], tmp_path / "d.png", 1, mono)
    assert all(Image.open(tmp_path / f"{name}.png").size[0] > 200 for name in "abcd")
