"""Runs convert.py as a user does."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from cpu_devices import cpu_devices
from safetensors.numpy import load_file
from tiny_weights import (
    TINY,
    assert_bit_equal,
    deit_state,
    from_vit,
    huggingface_folder,
    random_params,
    reference_state,
    write,
)

from yolos_jax.evaluation.coco_metrics import NAMES
from yolos_jax.programs import convert as program
from yolos_jax.weights import checkpoints
from yolos_jax.weights.huggingface import to_huggingface

ROOT = Path(__file__).resolve().parents[2]


def run(*args):
    return subprocess.run(
        [sys.executable, ROOT / "convert.py", *map(str, args)],
        capture_output=True,
        text=True,
        env=cpu_devices(),  # a single device starts fastest
        cwd=ROOT,
        timeout=300,
    )


@pytest.fixture
def convert(monkeypatch, capsys):
    """Runs the program in this process; returns a result like that of `run`."""

    def convert(*args):
        monkeypatch.setattr(sys, "argv", ["convert.py", *map(str, args)])
        code = 0
        try:
            program.main()
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=printed.out, stderr=printed.err)

    return convert


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    return ConfigDict({{'model': {TINY.to_dict()!r}}})\n"
    )
    return path


def test_reference_to_checkpoint_to_huggingface(tmp_path, recipe, convert):
    source = write(tmp_path / "yolos.safetensors", reference_state())
    done = run(source, "--out", tmp_path / "ours", "--config", recipe)
    assert done.returncode == 0, done.stderr
    assert f"used: {len(reference_state())}" in done.stdout
    params, meta = checkpoints.load_detector(tmp_path / "ours")
    assert meta.model == TINY and meta.step == 0
    assert_bit_equal(params, random_params(TINY))

    numbers = {name: (i + 1) / 16 for i, name in enumerate(NAMES)}
    (tmp_path / "ours" / "eval-0").mkdir()
    (tmp_path / "ours" / "eval-0" / "metrics.json").write_text(json.dumps(numbers | {"images": 25, "step": 0}))
    done = convert(tmp_path / "ours", "--out", tmp_path / "hf", "--to-hf")
    assert done.returncode == 0, done.stderr
    assert "model card: AP 0.0625, AP50 0.1250" in done.stdout
    assert_bit_equal(load_file(tmp_path / "hf" / "model.safetensors"), to_huggingface(params, TINY))
    written = {path.name for path in (tmp_path / "hf").iterdir()}
    assert written == {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "| ARl | 0.7500 |" in card and "on 25 images" in card and "converted from yolos.safetensors" in card


def test_deit_with_a_seed(tmp_path, recipe, convert):
    source = write(tmp_path / "deit.safetensors", deit_state())
    done = convert(source, "--out", tmp_path / "ours", "--config", recipe, "--seed", 9)
    assert done.returncode == 0, done.stderr
    assert "head.weight" in done.stdout and "backbone.det_token" in done.stdout
    assert_bit_equal(checkpoints.load_detector(tmp_path / "ours")[0], from_vit(deit_state(), TINY, 9)[0])


def test_huggingface_to_checkpoint_keeps_label_names(tmp_path, convert):
    labels = {"0": "cat", "1": "N/A", "2": "dog", "3": "owl"}
    folder = huggingface_folder(tmp_path / "hf", id2label=labels)
    done = convert(folder, "--out", tmp_path / "ours")
    assert done.returncode == 0, done.stderr
    assert checkpoints.load_detector(tmp_path / "ours")[1].label_names == {0: "cat", 2: "dog", 3: "owl"}


def test_errors_have_one_line(tmp_path, convert):
    weights = write(tmp_path / "yolos.safetensors", reference_state())
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    used = tmp_path / "used"
    used.mkdir()
    (used / "file").write_text("")
    cases = [
        ((weights, "--seed", "-1"), "--seed is -1; it must be at least 0"),
        (("n" * 300,), "File name too long"),
        ((weights, "--config", "n" * 300), "File name too long"),
        ((tmp_path / "absent.pth", "--to-hf", "--out", used), "not an empty folder"),  # reported before SOURCE is read
        ((tmp_path / "absent.pth",), "does not exist"),
        ((weights, "--variant", "huge"), "there is no variant 'huge'"),
        ((weights, "--config", broken), "ZeroDivisionError"),
        ((weights, "--config", "yolos_ti", "--variant", "ti"), "not allowed with argument"),
        ((weights, "--speed", "3"), "unexpected argument '--speed' (see --help)"),
    ]
    for args, sentence in cases:
        done = convert("--out", tmp_path / "out", *args)
        assert done.returncode == 2, (args, done.stderr)
        assert sentence in done.stderr and "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()
