"""check_data reports duplicate class names, and they are made unique wherever names serve as keys."""

import json

import pytest
from made_coco import box, coco_split, make_coco
from tiny_weights import TINY, random_params

from yolos_jax.datasets.category_names import distinct
from yolos_jax.datasets.settings import Settled
from yolos_jax.evaluation.coco_metrics import scored
from yolos_jax.tools import survey
from yolos_jax.weights import export_huggingface, load_weights

TWICE = [{"id": 1, "name": "person"}, {"id": 2, "name": "person"}, {"id": 5, "name": "a\nb"}]


def folder(root, categories=TWICE, split="train"):
    boxes = [box(1, 1, [5, 5, 40, 40], 1), box(2, 1, [30, 50, 20, 20], 2)]
    return make_coco(root, [(120, 100)], split, boxes, categories)


@pytest.mark.parametrize("names, wanted", [
    ({2: "a", 1: "a", 3: "a"}, {1: "a", 2: "a (2)", 3: "a (3)"}),
    ({0: "a", 1: "a", 2: "a (2)"}, {0: "a", 1: "a (3)", 2: "a (2)"}),
    ({0: "N/A", 1: "N/A", 2: "LABEL_1"}, {0: "N/A", 1: "N/A", 2: "LABEL_1"}),
])  # fmt: skip
def test_distinct_names(names, wanted):
    assert distinct(names) == wanted == distinct(wanted)


def test_check_data_reports_duplicate_names(tmp_path):
    problems: list[survey.Problem] = []
    root = folder(tmp_path)
    read = survey.survey_split(
        "train", lambda to: coco_split(root, "train", categories="contiguous", complain=to), problems
    )
    (problem,) = problems
    assert "the category ids 1, 2 in" in problem.sentence and "are all named 'person'" in problem.sentence
    lines = survey.overview(read)
    assert all("\n" not in line for line in lines)
    for row in ("    1     0      1  person", "    2     1      1  person (2)", "    5     2      0  a\\nb"):
        assert f"  {row}" in lines


def test_exported_names_are_distinct_and_match_the_data(tmp_path):
    source = coco_split(folder(tmp_path / "data"), "train", categories="contiguous")
    config = TINY.__class__(**{**TINY.to_dict(), "num_classes": 3})
    export_huggingface(random_params(config), config, {0: "person", 1: "person", 2: "a\nb"}, tmp_path / "hf")
    written = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert written["id2label"] == {"0": "person", "1": "person (2)", "2": "a\nb"}
    assert written["label2id"] == {"person": 0, "person (2)": 1, "a\nb": 2}
    names = load_weights(tmp_path / "hf").label_names
    assert names == source.label_names
    # Older checkpoints still contain the duplicate names.
    for known in (names, {0: "person", 1: "person", 2: "a\nb"}):
        again = coco_split(tmp_path / "data", "train", 3, categories="contiguous", settled=Settled(label_names=known))
        assert again.label_names == source.label_names


def test_score_tables_list_both_classes(tmp_path):
    truth = coco_split(folder(tmp_path), "train", categories="contiguous").ground_truth()
    truth["categories"][2]["name"] = "方"
    results = [
        {"image_id": 1, "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0} for a in truth["annotations"]
    ]
    _, scores = scored(truth, results)
    assert scores.names == ("person", "person (2)", "方")
    assert [line.split()[0] for line in scores.text().splitlines()] == ["class", "person", "person", "方"]
    assert list(scores.scalars().values()) == pytest.approx([1.0] * 6)
