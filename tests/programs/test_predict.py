"""Tests predict.py: drawn images, JSON files, and errors for invalid arguments."""

import functools
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reference_pack import ROOT
from safetensors.numpy import save_file
from tiny_export import checkpoint_in, run
from tiny_weights import TINY

from yolos_jax import Detector
from yolos_jax.programs.predict import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return checkpoint_in(tmp_path_factory.mktemp("checkpoint") / "c", TINY)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with three images of noise and two other entries."""
    folder = tmp_path_factory.mktemp("images")
    for i, (width, height) in enumerate([(64, 48), (48, 64), (90, 50)]):
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "notes.txt").write_text("no image")
    (folder / "below").mkdir()
    return folder


@pytest.fixture(scope="module")
def load():
    """`Detector.load`, cached by its arguments, because compilation takes most of the time."""
    return functools.cache(Detector.load)


@pytest.fixture
def call(monkeypatch, capsys, load):
    """Runs the program in this process; returns (exit code, output, error message)."""
    monkeypatch.setattr(Detector, "load", load)

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, args)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        printed = capsys.readouterr()
        sentences = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        assert len(sentences) == (code == 2)
        return code, printed.out, "".join(sentences)

    return call


def test_in_a_separate_process(checkpoint, images, tmp_path):
    (tmp_path / "broken.png").write_bytes((images / "0.png").read_bytes()[:400])
    command = ["predict.py", images, tmp_path / "broken.png", "--checkpoint", checkpoint, "--threshold", "0.01"]
    done = run(*command, "--out", tmp_path / "out", "--batch-size", "2", cwd=ROOT)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-2000:]
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "1 of 4 images" in sentence and "broken.png" in sentence
    assert "3 images, 1 unreadable" in done.stdout and "broken.png" in done.stdout
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"{i}.{ending}" for i in range(3) for ending in ("json", "png")]


def test_output_files_match_the_detector(checkpoint, images, tmp_path, call):
    code, printed, _ = call(images, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--threshold", "0")
    assert code == 0
    detector = Detector.load(checkpoint)
    assert f"{3 * detector.config.det_tokens} objects in 3 images, 0 unreadable" in printed
    for i, size in enumerate([(64, 48), (48, 64), (90, 50)]):
        written = json.loads((tmp_path / "out" / f"{i}.json").read_text())
        assert (written["file"], written["width"], written["height"]) == (str(images / f"{i}.png"), *size)
        found = detector(images / f"{i}.png", 0.0)
        objects = written["objects"]
        assert [o["label"] for o in objects] == list(found.labels) and [o["name"] for o in objects] == found.names
        np.testing.assert_allclose([o["score"] for o in objects], found.scores, atol=1e-6)
        np.testing.assert_allclose([o["box"] for o in objects], found.boxes, atol=1e-3)
        drawn = Image.open(tmp_path / "out" / f"{i}.png")
        assert max(drawn.size) >= 480 and drawn.size[0] / drawn.size[1] == size[0] / size[1]


def test_does_not_overwrite_files(checkpoint, images, tmp_path, call):
    options = ["--checkpoint", checkpoint, "--threshold", "0.01"]
    assert call(images / "0.png", *options, "--out", tmp_path / "out")[0] == 0
    code, _, sentence = call(images / "0.png", *options, "--out", tmp_path / "out")
    assert code == 2 and "already exists" in sentence and "--overwrite" in sentence
    image = Path(shutil.copy(tmp_path / "out" / "0.png", tmp_path / "own.png"))
    before = image.read_bytes()
    code, _, sentence = call(image, *options, "--out", tmp_path, "--overwrite")
    assert code == 2 and "would be overwritten" in sentence and image.read_bytes() == before


@pytest.mark.timeout(120)
def test_named_pipe_does_not_block(checkpoint, images, tmp_path, call):
    """A pipe, in a folder or given directly, is skipped and reported, and all other images are processed."""
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    os.mkfifo(folder / "1.jpg")
    os.mkfifo(tmp_path / "pipe")
    code, printed, sentence = call(folder, tmp_path / "pipe", "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert code == 2 and "2 of 5 images could not be read" in sentence
    for pipe in (folder / "1.jpg", tmp_path / "pipe"):
        assert f"skipped: the image {pipe} is a named pipe; replace it with a regular file." in printed
    assert len(list((tmp_path / "out").glob("*.json"))) == 3


def test_invalid_arguments(checkpoint, images, tmp_path, call):
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    save_file({"x": np.zeros(2, np.float32)}, tmp_path / "bert" / "model.safetensors")
    (tmp_path / "empty").mkdir()
    out = ["--out", tmp_path / "out"]
    for args, words in [
        ([images / "0.png", "--checkpoint", tmp_path / "bert"], ["bert", "yolos"]),
        ([images / "0.png", "--checkpoint", tmp_path / "empty"], ["contains no checkpoint"]),
        ([tmp_path / "empty", "--checkpoint", checkpoint], ["contains no images"]),
        ([images / "0.png", "--checkpoint", checkpoint, "--threshold", "2"], ["between 0 and 1"]),
        ([images / "0.png", "--checkpoint", checkpoint, "--threshold", "nan"], ["between 0 and 1"]),
        ([images / "0.png", "--checkpoint", checkpoint, "--batch-size", "0"], ["--batch-size"]),
        ([images / "0.png", "--checkpoint", checkpoint, "--short-side", "0"], ["--short-side"]),
    ]:
        code, _, sentence = call(*args, *out)
        assert code == 2 and all(word in sentence for word in words), sentence
