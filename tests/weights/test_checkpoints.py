"""Tests the metadata of checkpoints, and that damaged checkpoints are rejected."""

import json

import pytest
from tiny_weights import TINY, random_params

from yolos_jax.errors import InputError
from yolos_jax.model.config import YolosConfig
from yolos_jax.training import checkpoint_files
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.weights import checkpoints


def test_meta_round_trip():
    meta = Meta(TINY, {0: "cat", 3: "dog"}, 7, {"config": {"seed": 1}}, (7, 1, 9, 4), 120)
    assert Meta.from_json(json.loads(json.dumps(meta.to_json()))) == meta
    assert meta.to_json()["model"].keys() == {"init_pe_size", *YolosConfig().to_dict()} and "max_side" in meta.to_json()


@pytest.mark.parametrize("change", [{"max_side": 0}, {"max_side": "84"}, {"model": {"width": 12, "breadth": 3}}])
def test_rejects_invalid_meta(change):
    meta = Meta(TINY, {}).to_json() | change
    with pytest.raises(checkpoint_files.InputError, match=r"model\.max_side is|unknown model settings .'breadth'."):
        Meta.from_json(meta)


def test_damaged_checkpoint(tmp_path):
    checkpoints.save(tmp_path / "c", 0, random_params(TINY), Meta(TINY, {}))
    for path in (tmp_path / "c" / "0" / "params").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read"):
        checkpoints.load_detector(tmp_path / "c")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"model": {}, "label_names": {}, "step": 0, "extra": []}', '{"step": "x"}']
)
def test_damaged_metadata(tmp_path, text):
    checkpoints.save(tmp_path / "c", 0, random_params(TINY), Meta(TINY, {}))
    (tmp_path / "c" / "0" / "meta" / "metadata").write_text(text)
    with pytest.raises(InputError, match="cannot be read"):
        checkpoints.load_detector(tmp_path / "c")
