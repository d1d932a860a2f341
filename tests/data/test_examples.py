"""Tests the table of examples, and that data modules do not import jax."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from reference_pack import ROOT

from yolos_jax.data.examples import Example, ExampleTable


def some_examples():
    rng = np.random.default_rng(0)
    counts = 2, 0, 3
    return [
        Example(
            image_id=10 + i,
            file=f"{i}.jpg",
            width=30 + i,
            height=20,
            boxes=rng.random((n, 4), np.float32),
            labels=rng.integers(0, 9, n).astype(np.int32),
            area=rng.random(n, np.float32),
        )
        for i, n in enumerate(counts)
    ]


def test_table_returns_its_examples():
    examples = some_examples()
    table = ExampleTable(examples)
    assert len(table) == 3 and table.counts.tolist() == [2, 0, 3]
    for found, want in zip([*table, table[-1]], [*examples, examples[2]]):
        for name, value in vars(want).items():
            np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)
    with pytest.raises(IndexError):
        table[3]


def test_fingerprint_depends_on_content():
    examples = some_examples()
    before = ExampleTable(examples).fingerprint()
    moved = [dataclasses.replace(e, file="elsewhere/" + e.file) for e in examples]
    assert ExampleTable(moved).fingerprint() == before
    first = examples[0]
    changes = {
        "image_id": 11,
        "width": 31,
        "boxes": first.boxes + np.float32(1),
        "labels": first.labels + np.int32(1),
        "area": first.area + np.float32(1),
    }
    for name, value in changes.items():
        changed = dataclasses.replace(first, **{name: value})
        assert ExampleTable([changed, *examples[1:]]).fingerprint() != before, name
    assert ExampleTable(examples[::-1]).fingerprint() != before
    assert ExampleTable(examples[:2]).fingerprint() != before


def test_data_modules_do_not_import_jax():
    """Data workers must not start a JAX backend; grain, which imports jax, is imported only when it is used."""
    found = [path for folder in ("data", "datasets") for path in (ROOT / "yolos_jax" / folder).rglob("*.py")]
    classes = "batches", "plan", "views", "mixing", "random_augment"  # modules imported by pre-training workers
    found += [ROOT / "yolos_jax" / "tasks" / "classification" / f"{name}.py" for name in classes]
    files = [path.relative_to(ROOT).with_suffix("") for path in found]
    modules = sorted(".".join(path.parts) for path in files if path.name != "__init__")
    assert {"yolos_jax.data.loader", "yolos_jax.data.workers", "yolos_jax.datasets.layouts.tfds"} <= set(modules)
    imports = "; ".join(f"import {name}" for name in modules)
    code = f"import sys; {imports}; sys.exit('jax' in sys.modules or 'grain' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, cwd=ROOT).returncode == 0
