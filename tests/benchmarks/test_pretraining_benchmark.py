"""Tests of benchmarks.pretraining: resuming, and the table. Training itself is tested elsewhere."""

import argparse
import json

import numpy as np
import pytest

from benchmarks import pretraining
from yolos_jax.errors import InputError


def test_existing_data_and_results_are_reused(tmp_path):
    """The data is written once, existing results are reused, and flags that do not match the data raise an error."""
    flags = argparse.Namespace(out=tmp_path / "claim", scenes=3, images=20, pretrain_epochs=2)
    pretraining.begin(flags)
    scenes = flags.out / "scenes" / "annotations" / "instances_train2017.json"
    assert len(json.loads(scenes.read_text())["images"]) == 3
    assert len([*(flags.out / "digits" / "train").rglob("*.png")]) == 20
    written = scenes.stat().st_mtime_ns
    pretraining.begin(flags)
    assert scenes.stat().st_mtime_ns == written
    run = flags.out / "reference-2-0"
    run.mkdir()
    (run / "numbers.json").write_text('{"AP": 0.25}')
    assert pretraining.held_out(flags, "reference", 2, 0) == 0.25
    (run / "numbers.json").write_text("{}")
    with pytest.raises(InputError, match="reference-2-0/numbers.json has no AP; delete it"):
        pretraining.held_out(flags, "reference", 2, 0)
    with pytest.raises(InputError, match="was created with {'scenes': 3.*'scenes': 4.* another --out"):
        pretraining.begin(argparse.Namespace(**vars(flags) | {"scenes": 4}))


def test_table_has_means_and_standard_deviations():
    values = np.random.default_rng(0).uniform(size=(3, 3))
    found = {(start, 4): list(row) for start, row in zip(pretraining.STARTS, values)}
    cells = pretraining.table(found, [4], 3).splitlines()[-1].split("|")[1:-1]
    want = [f"{mean:.3f} ± {spread:.3f}" for mean, spread in zip(values.mean(1), values.std(1, ddof=1))]
    assert [cell.strip() for cell in cells] == ["4", *want]
