"""Contact sheets of validation images during a run, with annotations and detections side by side."""

from types import SimpleNamespace

import numpy as np
import pytest
from made_coco import coco_split, make_coco
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image

from yolos_jax.errors import InputError
from yolos_jax.evaluation.settings import EvaluationSettings
from yolos_jax.inference.contact_sheet import GAP
from yolos_jax.tasks.detection import font_notes
from yolos_jax.tasks.pictures import samples
from yolos_jax.tasks.pictures.samples import Samples

RED = (255, 0, 0)


def result(*found):
    """An evaluation result with these boxes: (image id, category, xywh, score)."""
    keys = ("image_id", "category_id", "bbox", "score")
    return SimpleNamespace(results=[dict(zip(keys, each)) for each in found], skipped=[])


def sheet_of(folder, step):
    return np.asarray(Image.open(folder / "validation" / f"step-{step:08d}.jpg")).astype(int)


def test_images_stay_the_same_and_only_detections_change(tmp_path):
    make_coco(tmp_path / "data", [(480, 480)] * 20)
    source = coco_split(tmp_path / "data", "train2017")
    drawn = Samples(tmp_path, source)
    assert drawn.places == [0, 3, 5, 8, 11, 14, 16, 19]
    nothing, something = result((2, 7, [0, 0, 9, 9], 0.9)), result((1, 7, [96, 96, 240, 240], 0.9))
    drawn.draw(5, nothing)
    drawn.draw(10, something)
    drawn.draw(11, None)  # the end of a run without an evaluation
    assert sorted(f.name for f in (tmp_path / "validation").iterdir()) == ["step-00000005.jpg", "step-00000010.jpg"]
    before, after = sheet_of(tmp_path, 5), sheet_of(tmp_path, 10)
    changed = np.argwhere(np.abs(before - after).max(-1) > 100)
    (top, left), (bottom, right) = changed.min(0), changed.max(0)
    cell = samples.SIDE + GAP  # the first image's detections are in the second cell of the first row
    assert left >= cell and bottom < cell
    factor = samples.SIDE / 480
    within = np.array([96, 96]) * factor + GAP
    assert abs(left - (cell + within[0])) <= 3 and abs(right - (cell + GAP + (96 + 240) * factor)) <= 3
    assert abs(bottom - (GAP + (96 + 240) * factor)) <= 3 and top <= within[1] + 3  # the label is above the box


def test_best_three_detections_are_always_drawn(tmp_path):
    """Early in a run, all scores are low. Other detections are drawn only with a score of at least 0.5."""
    make_coco(tmp_path / "data", [(480, 480)])
    source = coco_split(tmp_path / "data", "train2017")

    def drawn(step, *scores):
        found = [(1, 1, [40 + 80 * i, 240, 40, 40], score) for i, score in enumerate(scores)]
        Samples(tmp_path, source).draw(step, result(*found))
        return sheet_of(tmp_path, step)

    three = drawn(1, 0.3, 0.2, 0.1)
    assert (drawn(2, 0.3, 0.2, 0.1, 0.09) == three).all()
    assert (drawn(3, 0.6, 0.6, 0.6, 0.49) == drawn(4, 0.6, 0.6, 0.6)).all()
    assert (drawn(5, 0.6, 0.6, 0.6, 0.5) != drawn(4, 0.6, 0.6, 0.6)).any()


def test_class_names_in_a_custom_font(tmp_path):
    """With `eval.font`, missing glyphs are reported, and a path that is not a font raises an error."""
    categories = [{"id": 1, "name": "été"}, {"id": 7, "name": "方"}]
    source = coco_split(make_coco(tmp_path / "data", [(480, 480)], categories=categories), "train2017")
    mono = findfont(FontProperties(family="DejaVu Sans Mono"))
    for step, font in enumerate(("", mono)):
        Samples(tmp_path, source, font).draw(step, result((1, 1, [40, 240, 40, 40], 0.9)))
        (note,) = font_notes(source.label_names, EvaluationSettings(font=font))
        assert "no glyph for 1 letter in class names (方); choose another font with --config.eval.font" in note
    assert (sheet_of(tmp_path, 0) != sheet_of(tmp_path, 1)).any()
    with pytest.raises(InputError, match=r"data cannot be read .*use a .ttf"):
        font_notes(source.label_names, EvaluationSettings(font=str(tmp_path / "data")))


def test_unreadable_images_are_skipped(tmp_path):
    make_coco(tmp_path / "data", [(480, 480)] * 2)
    source = coco_split(tmp_path / "data", "train2017")
    (tmp_path / "data" / "train2017" / "1.jpg").write_bytes(b"no image")
    Samples(tmp_path, source).draw(1, result((2, 1, [0, 0, 9, 9], 0.9)))
    assert sheet_of(tmp_path, 1).shape[:2] == (samples.SIDE + 2 * GAP, 2 * samples.SIDE + 3 * GAP)
