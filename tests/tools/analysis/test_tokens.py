"""Compares the table of tokens with numpy on the same predictions."""

import contextlib
import json

import numpy as np
import pytest

from yolos_jax.inference.outputs import JsonList
from yolos_jax.tools.analysis.tokens import TokenTable, size_index


def test_token_table(tmp_path):
    rng, pictures, tokens, classes = np.random.default_rng(0), 9, 4, 5
    sizes = rng.integers(50, 400, (pictures, 2))
    scores, labels = rng.uniform(size=(pictures, tokens)), rng.integers(0, classes, (pictures, tokens))
    corners = rng.uniform(size=(pictures, tokens, 2, 2)) * sizes[:, None, None]
    boxes = np.concatenate([corners.min(2), corners.max(2)], 2)
    table = TokenTable(tokens, classes, pictures, tokens=3, confident=0.4)
    for index in rng.permutation(pictures):  # in any order
        table.add(int(index), sizes[index], scores[index], labels[index], boxes[index])

    centres = (boxes[..., :2] + boxes[..., 2:]) / 2 / sizes[:, None]
    sides = boxes[..., 2:] - boxes[..., :2]
    for token, row in enumerate(table.rows({0: "zero"})):
        np.testing.assert_allclose([row["x"], row["y"]], centres[:, token].mean(0), atol=1e-12)
        np.testing.assert_allclose([row["spread_x"], row["spread_y"]], centres[:, token].std(0), atol=1e-7)
        want = (sides / sizes[:, None])[:, token].mean(0)
        np.testing.assert_allclose([row["width"], row["height"]], want, atol=1e-12)
        area = sides[:, token].prod(1)
        assert row["small"] == (area < 32**2).sum() and row["large"] == (area >= 96**2).sum()
        assert row["small"] + row["medium"] + row["large"] == row["images"] == pictures
        assert row["confident"] == (scores[:, token] >= 0.4).sum()
        counts = np.bincount(labels[:, token], minlength=classes)
        top = int(counts.argmax())
        assert row["top_class"] == ("zero" if top == 0 else str(top)) and row["classes"] == (counts > 0).sum()
        assert row["top_class_share"] == counts[top] / pictures
    np.testing.assert_allclose(table.drawn.centres, centres[:, :3].swapaxes(0, 1), atol=1e-6)
    np.testing.assert_array_equal(table.drawn.sizes, size_index(sides.prod(2))[:, :3].T)
    assert sum(row["predicted"] for row in table.pairs({})) == pictures * tokens

    truth = np.array([0, 7, 1, 2, 0])
    rows = table.class_rows(truth, {1: "one"})
    all_predicted = np.bincount(labels.ravel(), minlength=classes)
    assert [row["label"] for row in rows[:3]] == [1, 3, 2] and rows[0]["name"] == "one"
    assert {row["label"]: row["predicted"] for row in rows} == {
        k: v for k, v in enumerate(all_predicted) if v or truth[k]
    }
    assert sum(row["annotated_share"] for row in rows) == pytest.approx(1)


def test_memory_is_bounded():
    """The data kept for the figure is limited to the number of images in COCO's validation split."""
    few, many = TokenTable(100, 91, 5000), TokenTable(100, 91, 10**9)
    assert few._drawn_centres.nbytes == many._drawn_centres.nbytes
    many.add(10**8, np.array([10, 10]), np.zeros(100), np.zeros(100, int), np.zeros((100, 4)))
    assert many.drawn.sizes.shape == (10, 0) and many.rows({})[0]["images"] == 1


def test_json_list_of_any_length(tmp_path):
    for entries in ([], [{"a": 1}], [{"a": 1}, {"b": [1.5]}]):
        with contextlib.closing(JsonList(tmp_path / "x.json")) as file:
            for entry in entries:
                file.add(entry)
        assert json.loads((tmp_path / "x.json").read_text()) == entries
