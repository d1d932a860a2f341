"""What a checkpoint says about itself, today's and those of version 0.1."""

import json

import jax
import numpy as np
import pytest
from reference_pack import ROOT
from tiny_weights import TINY, random_params

from yolos_jax import Detector
from yolos_jax.errors import InputError
from yolos_jax.model.config import YolosConfig
from yolos_jax.training import checkpoint_files
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.weights import checkpoints

OLD = ROOT / "tests" / "inputs" / "meta_0.1.json"  # of a run of version 0.1 with model.max_side=90


def test_meta_comes_back():
    meta = Meta(TINY, {0: "cat", 3: "dog"}, 7, {"config": {"seed": 1}}, (7, 1, 9, 4), 120)
    assert Meta.from_json(json.loads(json.dumps(meta.to_json()))) == meta
    assert meta.to_json()["model"].keys() == {"init_pe_size", *YolosConfig().to_dict()} and "max_side" in meta.to_json()


def test_meta_of_version_0_1(tmp_path):
    """Settings of the computation stood among the model's; only the longest side is kept of them."""
    values = json.loads(OLD.read_text())
    assert {"max_side", "query_block", "compute_dtype", "remat"} <= values["model"].keys()
    model = YolosConfig(width=12, depth=2, heads=2, det_tokens=6, num_classes=10, init_pe_size=(64, 64))
    assert Meta.from_json(values) == Meta(model, {1: "one", 7: "seven"}, 4, values["extra"], None, 90)

    checkpoints.save(tmp_path, 4, random_params(model), Meta(model, {}, 4))
    (tmp_path / "4" / "meta" / "metadata").write_text(OLD.read_text())
    params, meta = checkpoints.load(tmp_path)
    assert meta == Meta.from_json(values)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, random_params(model))
    detector = Detector.load(tmp_path)
    assert detector.geometry == (48, 79, 16, 90) and detector.label_names == {1: "one", 7: "seven"}


@pytest.mark.parametrize("change", [{"max_side": 0}, {"max_side": "84"}, {"model": {"width": 12, "breadth": 3}}])
def test_unusable_meta_is_refused(change):
    meta = Meta(TINY, {}).to_json() | change
    with pytest.raises(checkpoint_files.InputError, match=r"model\.max_side is|unknown model settings .'breadth'."):
        Meta.from_json(meta)


def test_damaged_checkpoint(tmp_path):
    checkpoints.save(tmp_path / "c", 0, random_params(TINY), Meta(TINY, {}))
    for path in (tmp_path / "c" / "0" / "params").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read"):
        checkpoints.load(tmp_path / "c")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"model": {}, "label_names": {}, "step": 0, "extra": []}', '{"step": "x"}']
)
def test_damaged_facts_of_a_checkpoint(tmp_path, text):
    checkpoints.save(tmp_path / "c", 0, random_params(TINY), Meta(TINY, {}))
    (tmp_path / "c" / "0" / "meta" / "metadata").write_text(text)
    with pytest.raises(InputError, match="cannot be read"):
        checkpoints.load(tmp_path / "c")
