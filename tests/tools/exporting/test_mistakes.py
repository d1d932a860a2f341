"""Error messages of yolos-export, and of run_detector.py for invalid folders."""

import json
import shutil

import pytest
from PIL import Image
from reference_pack import ROOT
from tiny_export import CONFIG, call, checkpoint_in, run

from yolos_jax.errors import InputError
from yolos_jax.tools.exporting.run_detector import ExportedDetector, Unusable, open_upright


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return checkpoint_in(tmp_path_factory.mktemp("checkpoint") / "c")


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "e"
    with pytest.MonkeyPatch.context() as patch:
        call(patch, "--checkpoint", checkpoint, "--out", folder, "--platforms", "cpu")
    return folder


@pytest.mark.parametrize(
    "options, words",
    [
        (["--checkpoint", "absent"], "absent does not exist"),
        (["--checkpoint", ROOT / "tests"], "contains no checkpoint"),
        (["--patches", 0], "0 patches .* 1.."),
        (["--patches", 60, 401], r"401 patches .* 1..400"),
        (["--image-size", 64, 60], "64 x 60 pixels; .* multiples of the patch size, 8"),
        (["--image-size", -8, 64], "multiples"),
        (["--image-size", 64, 168], "longer than model.max_side = 20 patches"),
        (["--batch-size", "0"], "--batch-size is '0'"),
        (["--batch-size", "-1"], "--batch-size is '-1'"),
        (["--batch-size", "9" * 20], r"--batch-size is '9+'; it must be a number from 1 to 2147483647"),
        (["--batch-size", "9" * 9999], "it must be a number from 1 to"),
        (["--batch-size", "many"], "--batch-size is 'many'.* or polymorphic"),
        (["--platforms", "cpu,abacus"], "platform 'abacus'; .* cpu, cuda, rocm, tpu"),
        (["--platforms", ""], "platform ''"),
        (["--short-side", 0], "--short-side and --max-side must be at least 1"),
        (["--max-side", -1], "--short-side and --max-side must be at least 1"),
        (["--short-side", 2000], "decrease data.short_side"),
        (["--out", ROOT / "tests"], "not an empty folder"),
        (["--out", ROOT / "README.md"], "not an empty folder"),
        (["--out", ROOT / "README.md" / "e"], "cannot be written to"),
        (["--out", ROOT / ("n" * 300)], r"n+ cannot be accessed \(File name too long\)"),
        (["--checkpoint", "n" * 300], r"n+ cannot be accessed \(File name too long\)"),
    ],
)
def test_invalid_options(checkpoint, tmp_path, monkeypatch, options, words):
    with pytest.raises(InputError, match=words):
        call(monkeypatch, "--checkpoint", checkpoint, "--out", tmp_path / "e", *options)
    assert not (tmp_path / "e").exists()


def test_does_not_overwrite_a_folder(exported, checkpoint):
    before = {path: path.read_bytes() for path in exported.iterdir()}
    done = run("-m", "yolos_jax.programs.export", "--checkpoint", checkpoint, "--out", exported, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert before == {path: path.read_bytes() for path in exported.iterdir()}


@pytest.mark.parametrize("name", ["export.json", "parameters.npz", "detector-104.stablehlo"])
def test_damaged_files(exported, tmp_path, name):
    damaged = shutil.copytree(exported, tmp_path / "damaged")
    file, image = damaged / name, Image.new("RGB", (64, 64))
    assert len(ExportedDetector(damaged)([image], 0.0)[0]) == CONFIG.det_tokens
    whole = file.read_bytes()
    for content in (b"", b"?", whole[: len(whole) // 2], whole[:-9]):
        file.write_bytes(content)
        with pytest.raises(Unusable, match=rf"{name} cannot be read \((?!.*unsafely).+\); export the model again"):
            ExportedDetector(damaged)([image])
    file.unlink()
    with pytest.raises(Unusable, match=f"{name} cannot be read .No such file|has no {name}"):
        ExportedDetector(damaged)([image])


def test_unusable_folders_and_images(exported, tmp_path):
    with pytest.raises(Unusable, match="no export.json"):
        ExportedDetector(tmp_path)
    (tmp_path / "export.json").write_text("{}")
    with pytest.raises(Unusable, match="cannot be read .it lacks platforms, "):
        ExportedDetector(tmp_path)
    foreign = shutil.copytree(exported, tmp_path / "foreign")
    facts = json.loads((foreign / "export.json").read_text())
    (foreign / "export.json").write_text(json.dumps(facts | {"platforms": ["tpu"]}))
    with pytest.raises(Unusable, match="for tpu, .* jax runs on cpu"):
        ExportedDetector(foreign)
    (tmp_path / "text.jpg").write_text("no image")
    Image.new("I;16", (9, 9)).save(tmp_path / "deep.png")
    for name, words in (("absent.jpg", "cannot be read"), ("text.jpg", "cannot be read"), ("deep.png", "8 bits")):
        with pytest.raises(Unusable, match=f"{name} .*{words}"):
            open_upright(str(tmp_path / name))
    done = run(exported / "run_detector.py", "absent.jpg", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: the image absent.jpg")
