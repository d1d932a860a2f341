"""Tests the files of an error analysis: values, figures, and the worst images."""

import csv
import json

import numpy as np
import pytest
from made_detections import hand_made
from PIL import Image

from yolos_jax.errors import InputError
from yolos_jax.evaluation.coco_metrics import scored
from yolos_jax.images.reading import UnreadableImage
from yolos_jax.tools.analysis import results_figures, worst_images
from yolos_jax.tools.analysis.matched_images import matched_images
from yolos_jax.tools.analysis.results import write_results

FIGURES = "per_class", "precision_recall", "confusion", "errors", "scores", "calibration"


def two_images():
    """Adds an image with a detection on background, and one without errors, to the image of `hand_made`."""
    truth, results = hand_made()
    truth["images"] += [{"id": i, "width": 100, "height": 100, "file_name": f"{i}.png"} for i in (6, 8)]
    found = {"id": 9, "image_id": 8, "category_id": 3, "bbox": [0, 0, 50, 50], "area": 2500, "iscrowd": 0}
    truth["annotations"].append(found)
    results += [
        {"image_id": 6, "category_id": 7, "bbox": [0, 0, 9, 9], "score": 0.99},
        {"image_id": 8, "category_id": 3, "bbox": [0, 0, 50, 50], "score": 0.99},
    ]
    return truth, results


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plots")
    truth, results = two_images()
    metrics, classes = scored(truth, results)

    def read(image_id):
        if image_id == 6:
            raise UnreadableImage("6.png is damaged.")
        return Image.new("RGB", (100, 100), (90, 120, 150))

    text = write_results(folder, truth, results, classes, [5, 6, 8], read, step=3)
    return folder, text, metrics


def test_tables(written):
    folder, text, metrics = written
    per_class = rows(folder / "per_class.csv")
    assert [(r["id"], r["name"], r["objects"]) for r in per_class] == [("3", "three", "3"), ("7", "seven", "1")]
    assert np.mean([float(r["AP"]) for r in per_class]) == pytest.approx(metrics["AP"])
    curve = rows(folder / "precision_recall.csv")
    assert len(curve) == 101 and np.mean([float(r["0.50 mean"]) for r in curve]) == pytest.approx(metrics["AP50"])
    assert [list(r.values()) for r in rows(folder / "confusion.csv")] == [
        ["three", "2", "0", "1"],
        ["seven", "1", "0", "0"],
        ["(background)", "2", "2", "0"],
    ]
    errors = {r["kind"]: r for r in rows(folder / "errors.csv")}
    assert {kind: r["all"] for kind, r in errors.items()} == dict.fromkeys(errors, "1") | {"background": "2"}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["AP50"] == pytest.approx(metrics["AP50"]) and summary["errors"]["background"]["above_threshold"] == 1
    calibration = rows(folder / "calibration.csv")
    counts = np.array([int(r["right"]) + int(r["wrong"]) for r in calibration])
    assert counts.sum() == 8 and [r["precision"] == "" for r in calibration] == (counts == 0).tolist()
    gaps = [abs(float(r["mean score"]) - float(r["precision"])) for r in calibration if r["precision"]]
    assert summary["ece"] == pytest.approx(np.average(gaps, weights=counts[counts > 0]))
    assert f"{summary['ece']:.4f}" in text and "not drawn: 6.png is damaged." in text
    assert all(f"\n{kind}" in text for kind in errors)
    assert [p.name[:6] for p in (folder / "tensorboard").iterdir()] == ["events"]


def test_figures_exist_and_are_not_empty(written):
    for name in FIGURES:
        with Image.open(written[0] / f"{name}.png") as figure:
            pixels = np.asarray(figure.convert("L"))
        assert min(figure.size) > 200 and (pixels < 128).mean() > 0.002


def test_figures_show_the_values(monkeypatch, tmp_path):
    truth, results = two_images()
    shown = []
    monkeypatch.setattr(results_figures, "save_figure", lambda figure, path, font="": shown.append(figure))
    classes = scored(truth, results)[1]
    results_figures.draw_categories(tmp_path, classes)
    (axis,) = shown[0].axes
    assert [text.get_text() for text in axis.get_yticklabels()] == ["three (3)", "seven (1)"]
    for line, name in zip(axis.lines, ("AP", "AP50", "AR")):
        np.testing.assert_array_equal(line.get_xdata(), classes.table()[name])
    matrix = np.array([[3, 1, 0], [0, 0, 0], [0, 4, 0]])
    results_figures.draw_confusion(tmp_path, matrix, ["a", "b", "back"], 0.5)
    np.testing.assert_allclose(shown[1].axes[0].images[0].get_array(), [[0.75, 0.25, 0], [0, 0, 0], [0, 1, 0]])
    assert sorted(t.get_text() for t in shown[1].axes[0].texts) == ["1", "3", "4"]


def test_worst_images(written):
    ranked = rows(written[0] / "worst.csv")
    # Nothing is correct in image 6; image 5 has one correct detection, four false ones, and two missed objects.
    assert [(r["image_id"], r["right"], r["false"], r["missed"]) for r in ranked] == [
        ("6", "0", "1", "0"),
        ("5", "1", "4", "2"),
        ("8", "1", "0", "0"),
    ]
    assert [float(r["f1"]) for r in ranked] == pytest.approx([0, 0.25, 1])
    (page,) = (written[0] / "worst").iterdir()
    assert page.name == "02_5.png"
    with Image.open(page) as sheet:
        assert sheet.width == pytest.approx(2 * sheet.height, abs=16)


def test_labels_of_drawn_boxes(monkeypatch, tmp_path):
    truth, results = hand_made()
    said = []
    monkeypatch.setattr(worst_images, "draw_boxes", lambda image, *drawn: said.append(drawn[2]) or image)
    images = list(matched_images(truth, results))
    worst_images.draw_worst(tmp_path, images, ["3", "7"], lambda _: Image.new("RGB", (99, 99)), 0.65)
    assert said[0] == ["3", "7 (missed)", "3 (missed)", "7 (crowd)"]
    assert said[1] == ["3 0.90", "3 0.80 (duplicate)", "7 0.70 (location)"]


def test_without_detections_or_objects(tmp_path):
    truth, results = hand_made()
    for folder, annotations, found in (("a", truth["annotations"], []), ("b", [], results)):
        content = truth | {"annotations": annotations}
        text = write_results(tmp_path / folder, content, found, scored(content, found)[1], [5], lambda _: image)
        summary = json.loads((tmp_path / folder / "summary.json").read_text())
        assert summary["AP50"] == (0 if annotations else -1) and ("- over all" in text) == (not found)


image = Image.new("RGB", (64, 48))


def test_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match="pip install matplotlib"):
        results_figures.draw_scores(tmp_path / "a.png", None)
