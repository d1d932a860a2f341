"""Tests of the costs: XLA's count, the paper's values, messages about differences, and speed."""

import dataclasses
import json

import numpy as np
import pytest
from reference_pack import data_folder
from tiny_weights import TINY, random_params

from yolos_jax import Detector
from yolos_jax.errors import InputError
from yolos_jax.images.sequence import Geometry
from yolos_jax.model.config import VARIANTS, YolosConfig
from yolos_jax.tools.analysis.costs import (
    PAPER,
    cost_row,
    counted_by_xla,
    differences_from_paper,
    first_sizes,
    frames_per_second,
    published_rows,
)
from yolos_jax.tools.analysis.multiply_adds import multiply_adds
from yolos_jax.training.checkpoint_files import Meta


def test_xla_counts_every_block_and_head():
    """XLA also counts norms, softmax and GELU; a count of only one block or head would be at most half."""
    for depth, heads in ((2, 2), (5, 4)):
        config = YolosConfig(width=128, depth=depth, heads=heads, det_tokens=8, num_classes=5, init_pe_size=(64, 64))
        assert 1.0 <= counted_by_xla(config, 10, 12) / multiply_adds(config, 10, 12).total <= 1.15


def test_published_rows():
    sizes = np.array([[640, 480]])
    rows = published_rows(sizes)
    assert [(row["variant"], row["short_side"], row["paper"]) for row in rows] == [
        (v, s, g * 1e9) for v, s, g, *_ in PAPER
    ]
    row = next(row for row in rows if (row["variant"], row["short_side"]) == ("s", 800))
    assert row["patches"] == 50 * 66  # 800 x 1066 pixels
    whole = multiply_adds(VARIANTS["s"], 50, 66, as_published=True)
    assert row["multiply_adds_as_published"] == whole.total
    parts = [row[part] for part in ("embedding", "linear", "attention", "heads")]
    assert parts == list(multiply_adds(VARIANTS["s"], 50, 66)) and sum(parts) == row["multiply_adds"]
    assert [row["variant"] for row in published_rows(sizes, ["ti"])] == ["ti"] * 5


def test_differences_from_the_paper():
    """For a difference of more than 2%, the message has the number of patches that matches the paper's value."""
    geometry = Geometry.of(800, 0, 16, 84)
    row = cost_row("s", VARIANTS["s"], geometry, np.array([[640, 480]]))
    paper = float(multiply_adds(VARIANTS["s"], 50, 60, True).total)
    (sentence,) = differences_from_paper([row | {"paper": paper}])
    needed = int(sentence.split("about ")[1].split()[0])
    assert abs(needed - 50 * 60) <= 30 and sentence.endswith("The 1 images used here have 3300 on average.")
    assert differences_from_paper([row | {"paper": row["multiply_adds_as_published"] / 1.015}]) == []


def test_first_sizes(tmp_path):
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 100 + i, "height": 50} for i in range(120)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    assert first_sizes(path).tolist() == [[100 + i, 50] for i in range(100)]
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    with pytest.raises(InputError, match="lists no images"):
        first_sizes(path)


def test_differences_on_real_images():
    """On other COCO images than the paper's, every difference of more than 2% is reported."""
    rows = published_rows(first_sizes(data_folder("coco_tiny80") / "annotations" / "instances_val2017.json"))
    off = [abs(row["multiply_adds_as_published"] / row["paper"] - 1) for row in rows]
    assert len(differences_from_paper(rows)) == sum(value > 0.02 for value in off)


def test_speed():
    """Every image is read and processed; the first image of each bucket is processed twice."""
    config = dataclasses.replace(TINY, det_tokens=5)
    detector, shapes = Detector(random_params(config), Meta(config, {}), 32, 64), []
    detector.forward = lambda images: shapes.append(images[0].shape)  # the network itself is not tested here
    pictures = [np.zeros((40, 40, 3), np.uint8), np.zeros((40, 80, 3), np.uint8), np.zeros((40, 40, 3), np.uint8)]
    found = frames_per_second(detector, pictures)
    assert shapes == [(32, 32, 3)] * 2 + [(32, 64, 3)] * 2 + [(32, 32, 3)]
    assert 0 < found["with reading"] <= found["network"]
