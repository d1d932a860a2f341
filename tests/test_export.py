"""Exported programs: run without our code, on real pictures, against the Detector."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import export as jax_export
from PIL import Image
from reference_pack import ROOT, data_folder
from tiny_weights import TINY, huggingface_folder, random_params

from yolos_jax import Detector, export, export_onnx
from yolos_jax.errors import InputError
from yolos_jax.pictures import open_rgb
from yolos_jax.programs import export as program
from yolos_jax.programs.run_detector import ExportedDetector, Unusable, open_upright, resized
from yolos_jax.sequence import Geometry, default_max_side, resized_size, rounded_tokens
from yolos_jax.training.checkpoints import Meta, save

CONFIG = dataclasses.replace(TINY, query_block=32, max_side=20)  # several blocks of attention
SHORT, LONG = 64, default_max_side(64)  # 13 x 8 patches at most
META = Meta(CONFIG, {0: "cat", 2: "dog"}, 7, {"config": {"data": {"short_side": SHORT}}}, (10, 20, 30, 40))

# Runs a script as a machine would that has neither our package nor what only we need.
WITHOUT_US = """
import runpy, sys
sys.modules.update(dict.fromkeys(("yolos_jax", "flax", "orbax", "safetensors")))
try:
    import yolos_jax
except ImportError:
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "c"
    save(folder, 7, random_params(CONFIG), META)
    return folder


@pytest.fixture(scope="module")
def detector(checkpoint):
    return Detector.load(checkpoint)


@pytest.fixture(scope="module")
def photos():
    """Six real pictures, upright and lying by turns."""
    paths = sorted((data_folder("coco_tiny80") / "val2017").glob("*.jpg"))
    sizes = [open_rgb(path).size for path in paths]
    lying = [path for path, (w, h) in zip(paths, sizes) if w > h]
    standing = [path for path, (w, h) in zip(paths, sizes) if w < h]
    found = [path for pair in zip(lying[:3], standing[:3]) for path in pair]
    return [str(path) for path in found]


def call(monkeypatch, *args):
    """The program in this process."""
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, args)])
    program.main()


def run(*args, **kwargs):
    """A process of its own on one plain CPU device."""
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PYTHONPATH")}
    environment |= {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, *map(str, args)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, **kwargs)


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """What `python export.py` writes by default."""
    folder = tmp_path_factory.mktemp("exported") / "deep" / "e"
    done = run("export.py", "--checkpoint", checkpoint, "--out", folder, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "programs for 104 patches on cpu, cuda, tpu" in done.stdout and "note" not in done.stdout
    return folder


def assert_same(found, detections):
    """What an exported program found against a Detector: boxes within 1e-5 of the picture's sides."""
    assert len(found) == len(detections)
    for objects, d in zip(found, detections):
        assert [o["label"] for o in objects] == list(d.labels) and [o["name"] for o in objects] == d.names
        np.testing.assert_allclose([o["score"] for o in objects], d.scores, atol=1e-5, rtol=0)
        off = np.abs(np.array([o["box"] for o in objects]) - d.boxes) / np.tile(d.size, 2)
        assert off.max(initial=0.0) <= 1e-5


def test_a_fresh_process_without_our_code(exported, detector, photos, tmp_path):
    """The folder is moved first: nothing in it may name where it was."""
    folder = shutil.copytree(exported, tmp_path / "moved")
    done = run("-I", "-c", WITHOUT_US, folder / "run_detector.py", *photos, "--threshold", "0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    detections = detector(photos, threshold=0.0)
    assert_same([one["objects"] for one in told], detections)
    assert [(one["file"], (one["width"], one["height"])) for one in told] == [
        (photo, d.size) for photo, d in zip(photos, detections)
    ]


def test_bit_equal_where_the_shapes_are(checkpoint, detector, photos, tmp_path, monkeypatch):
    """A program for as many patches as the Detector's bucket, at the same batch size, on the same device."""
    size = resized_size(*open_rgb(photos[0]).size, SHORT, LONG, CONFIG.patch_size)
    patches = rounded_tokens(size[0] * size[1] // CONFIG.patch_size**2)
    call(monkeypatch, "--checkpoint", checkpoint, "--out", tmp_path / "e", "--patches", patches)
    (found,) = ExportedDetector(tmp_path / "e")([open_upright(photos[0])], 0.0)
    (want,) = detector([photos[0]], 0.0)
    assert [o["score"] for o in found] == want.scores.tolist()
    assert [o["box"] for o in found] == want.boxes.tolist()


def batch_of(photos, patches, fill):
    """Pictures as inputs of a program, padding filled with a number."""
    array = np.full((len(photos), patches, CONFIG.patch_values), fill, np.uint8)
    grid, size = np.zeros((len(photos), 2), np.int32), np.zeros((len(photos), 2), np.float32)
    p = CONFIG.patch_size
    for i, photo in enumerate(photos):
        image = open_rgb(photo, upright=True)
        size[i] = image.size
        wanted = resized_size(*image.size, SHORT, LONG, p)
        pixels, grid[i] = np.asarray(image.resize(wanted, Image.Resampling.BILINEAR)), (wanted[1] // p, wanted[0] // p)
        cuts = [pixels[r : r + p, c : c + p].ravel() for r in range(0, wanted[1], p) for c in range(0, wanted[0], p)]
        array[i, : len(cuts)] = cuts
    return array, grid, size


def test_any_batch_whatever_the_padding_holds(exported, detector, photos):
    """One file for 1 and 6 pictures of different sizes; all outputs are what the Detector's are made of."""
    facts = json.loads((exported / "export.json").read_text())
    loaded = jax_export.deserialize((exported / facts["programs"][0]["file"]).read_bytes())
    with np.load(exported / "parameters.npz") as arrays:
        parameters = dict(arrays)
    for n in (1, 6):
        out = loaded.call(parameters, *batch_of(photos[:n], 104, 0))
        other = loaded.call(parameters, *batch_of(photos[:n], 104, 255))
        assert all(np.array_equal(out[name], other[name]) for name in export.OUTPUTS)
        images = [open_rgb(photo) for photo in photos[:n]]
        sized = [np.asarray(i.resize(resized_size(*i.size, SHORT, LONG, CONFIG.patch_size), 2)) for i in images]
        logits, boxes = detector.forward(sized)
        np.testing.assert_allclose(out["boxes"], boxes, atol=1e-5, rtol=0)
        np.testing.assert_allclose(out["logits"], logits, atol=1e-5 * np.abs(logits).max(), rtol=0)
        corners = np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)
        scale = np.array([image.size * 2 for image in images])[:, None]
        assert np.abs(out["pixel_boxes"] / scale - corners).max() <= 1e-5
        np.testing.assert_array_equal(out["labels"], logits[..., :-1].argmax(-1))
        p = np.exp(logits - logits.max(-1, keepdims=True))
        np.testing.assert_allclose(out["scores"], (p / p.sum(-1, keepdims=True))[..., :-1].max(-1), atol=1e-5)


def test_several_programs_of_a_fixed_batch(checkpoint, detector, photos, tmp_path, monkeypatch, capsys):
    out = tmp_path / "e"
    options = ["--image-size", 64, 80, "--patches", 96, 80, "--batch-size", 4, "--platforms", "cpu"]
    call(monkeypatch, "--checkpoint", checkpoint, "--out", out, *options)
    assert "up to 104 patches; those of more than 96 have no program" in capsys.readouterr().out
    loaded = ExportedDetector(out)
    assert [entry["patches"] for entry in loaded.facts["programs"]] == [80, 96]
    assert loaded.facts["batch"] == 4 and loaded.facts["platforms"] == ["cpu"]
    assert loaded.program(80)[1] == 80 and loaded.program(81)[1] == 96
    images = [open_upright(photo) for photo in photos]
    everything = detector(images, 0.0)
    assert_same(loaded(images, 0.0), everything)
    middle = float(np.median([d.scores for d in everything]))
    assert_same(loaded(images, middle), detector(images, middle))
    with pytest.raises(Unusable, match="of 104 patches has no program; see --patches"):
        loaded([Image.new("RGB", (106, 64))])


def test_the_description_is_what_the_programs_are(exported):
    facts = json.loads((exported / "export.json").read_text())
    for entry in facts["programs"]:
        loaded = jax_export.deserialize((exported / entry["file"]).read_bytes())
        parameters, *inputs = jax.tree.unflatten(loaded.in_tree, loaded.in_avals)[0]
        with np.load(exported / facts["parameters"]["file"]) as arrays:
            assert {k: v.shape for k, v in parameters.items()} == {k: v.shape for k, v in arrays.items()}
        outputs = jax.tree.unflatten(loaded.out_tree, loaded.out_avals)
        assert list(facts["inputs"]) == ["patches", "grid", "size"] and set(facts["outputs"]) == set(outputs)
        names = {"patches": str(entry["patches"])}
        for told, real in zip(
            [*facts["inputs"].values(), *facts["outputs"].values()], [*inputs, *outputs_in(facts, outputs)]
        ):
            assert [names.get(d, str(d)) for d in told["shape"]] == [str(d) for d in real.shape]
            assert told["dtype"] == str(real.dtype)
        assert tuple(facts["platforms"]) == loaded.platforms
        assert facts["calling_convention_version"] == loaded.calling_convention_version
    assert facts["batch"] is None and facts["jax_version"] == jax.__version__ and facts["step"] == 7
    assert facts["label_names"] == {"0": "cat", "2": "dog"} and facts["category_ids"] == [10, 20, 30, 40]
    assert facts["pictures"]["short_side"] == SHORT and facts["pictures"]["max_side"] == LONG
    assert sorted(path.name for path in exported.iterdir()) == [
        "detector-104.stablehlo", "export.json", "parameters.npz", "run_detector.py"
    ]  # fmt: skip


def outputs_in(facts, outputs):
    """Outputs in the order in which the description tells of them."""
    return [outputs[name] for name in facts["outputs"]]


def test_huggingface_folders_and_own_sizes(tmp_path, monkeypatch):
    folder = huggingface_folder(tmp_path / "hf")
    call(monkeypatch, "--checkpoint", folder, "--out", tmp_path / "e", "--short-side", 40, "--max-side", 50)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    found = ExportedDetector(tmp_path / "e")([noise], 0.0)
    assert_same(found, Detector.load(folder, 40, 50)([noise], 0.0))


@given(
    st.integers(1, 3000), st.integers(1, 3000), st.integers(16, 900), st.integers(16, 1400), st.sampled_from([8, 16])
)
def test_pictures_are_resized_as_ours(width, height, short_side, max_side, patch):
    geometry = Geometry.of(short_side, max_side, patch, 200)
    size = geometry.size(width, height)
    assert resized(width, height, short_side, max_side, patch) == size
    assert size[0] * size[1] // patch**2 <= export.most_patches(geometry)


@pytest.mark.parametrize("width, height", [(786, 1592), (1592, 786), (1, 5000), (3000, 1), (640, 480), (800, 1333)])
@pytest.mark.parametrize("short_side, max_side", [(79, 159), (800, 1333), (512, 853), (800, 600)])
def test_extreme_pictures_are_resized_as_ours(width, height, short_side, max_side):
    """786 x 1592 at 79 and 159 is where rounding gives the long side a patch more than 159 pixels hold."""
    geometry = Geometry.of(short_side, max_side, 16, 100)
    size = geometry.size(width, height)
    assert resized(width, height, short_side, max_side, 16) == size
    assert size[0] * size[1] // 256 <= export.most_patches(geometry)


@pytest.mark.parametrize("short_side, max_side, most", [(800, 1333, 50 * 83), (512, 853, 32 * 53), (79, 159, 4 * 10)])
def test_the_largest_picture(short_side, max_side, most):
    assert export.most_patches(Geometry.of(short_side, max_side, 16, 100)) == most


@pytest.mark.parametrize(
    "options, words",
    [
        (["--checkpoint", "absent"], "absent does not exist"),
        (["--checkpoint", ROOT / "tests"], "holds no checkpoint"),
        (["--patches", 0], "0 patches cannot be made"),
        (["--patches", 60, 401], r"401 patches cannot be made.* 1..400"),
        (["--image-size", 64, 60], "64 x 60 pixels: both sides must be multiples of the patch, 8"),
        (["--image-size", -8, 64], "multiples"),
        (["--image-size", 64, 168], "longer than model.max_side = 20 patches"),
        (["--batch-size", "0"], "--batch-size is '0'"),
        (["--batch-size", "-1"], "--batch-size is '-1'"),
        (["--batch-size", "many"], "--batch-size is 'many'.* or polymorphic"),
        (["--platforms", "cpu,abacus"], "no platform 'abacus'; choose of cpu, cuda, rocm, tpu"),
        (["--platforms", ""], "no platform ''"),
        (["--short-side", 0], "--short-side and --max-side must be at least 1"),
        (["--max-side", -1], "--short-side and --max-side must be at least 1"),
        (["--short-side", 2000], "lower data.short_side"),
        (["--out", ROOT / "tests"], "not an empty folder"),
        (["--out", ROOT / "README.md"], "not an empty folder"),
        (["--out", ROOT / "README.md" / "e"], "cannot be written to"),
    ],
)
def test_mistakes(checkpoint, tmp_path, monkeypatch, options, words):
    with pytest.raises(InputError, match=words):
        call(monkeypatch, "--checkpoint", checkpoint, "--out", tmp_path / "e", *options)
    assert not (tmp_path / "e").exists()


def test_one_sentence_and_nothing_overwritten(exported, checkpoint):
    before = {path: path.read_bytes() for path in exported.iterdir()}
    done = run("export.py", "--checkpoint", checkpoint, "--out", exported, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert before == {path: path.read_bytes() for path in exported.iterdir()}


def test_mistakes_with_an_exported_folder(exported, tmp_path):
    with pytest.raises(Unusable, match="holds no export.json"):
        ExportedDetector(tmp_path)
    foreign = shutil.copytree(exported, tmp_path / "foreign")
    facts = json.loads((foreign / "export.json").read_text())
    (foreign / "export.json").write_text(json.dumps(facts | {"platforms": ["tpu"]}))
    with pytest.raises(Unusable, match="for tpu and jax runs on cpu"):
        ExportedDetector(foreign)
    (tmp_path / "text.jpg").write_text("no picture")
    Image.new("I;16", (9, 9)).save(tmp_path / "deep.png")
    for name, words in (("absent.jpg", "cannot be read"), ("text.jpg", "cannot be read"), ("deep.png", "8 bits")):
        with pytest.raises(Unusable, match=f"{name} .*{words}"):
            open_upright(str(tmp_path / name))
    done = run(exported / "run_detector.py", "absent.jpg", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: the picture absent.jpg")


def test_pictures_are_turned_upright(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    image.convert("P").save(tmp_path / "palette.png")
    for name in ("turned.png", "palette.png"):
        ours = open_rgb(tmp_path / name, upright=True)
        np.testing.assert_array_equal(np.asarray(open_upright(str(tmp_path / name))), np.asarray(ours))


def test_onnx_absent(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"jax2onnx and onnxruntime: pip install 'yolos-jax\[onnx\]'"):
        call(monkeypatch, "--checkpoint", checkpoint, "--out", tmp_path / "e", "--onnx", 64, 96)


def onnx_packages():
    """onnxruntime, or a skip that says why."""
    for name in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is absent (pip install '.[onnx]')")
    return sys.modules["onnxruntime"]


def test_onnx(checkpoint, detector, photos, tmp_path, monkeypatch):
    """onnxruntime on real pictures, resized to the one size, against our own forward pass."""
    runtime = onnx_packages()
    call(monkeypatch, "--checkpoint", checkpoint, "--out", tmp_path / "e", "--onnx", 64, 96)
    facts = json.loads((tmp_path / "e" / "export.json").read_text())["onnx"]
    assert facts["inputs"]["image"]["shape"] == [1, 64, 96, 3] and max(facts["differences_from_ours"].values()) <= 1e-5
    session = runtime.InferenceSession(tmp_path / "e" / facts["file"], providers=["CPUExecutionProvider"])
    images = [open_rgb(photo) for photo in photos]
    sized = [np.asarray(image.resize((96, 64), Image.Resampling.BILINEAR)) for image in images]
    logits, boxes = detector.forward(sized)
    for i, image in enumerate(images):
        size = np.array([image.size], np.float32)
        out = dict(zip(export.OUTPUTS, session.run(list(export.OUTPUTS), {"image": sized[i][None], "size": size})))
        np.testing.assert_allclose(out["logits"][0], logits[i], atol=1e-5 * np.abs(logits).max(), rtol=0)
        np.testing.assert_allclose(out["boxes"][0], boxes[i], atol=1e-5, rtol=0)
        corners = np.concatenate([boxes[i, :, :2] - boxes[i, :, 2:] / 2, boxes[i, :, :2] + boxes[i, :, 2:] / 2], -1)
        assert np.abs(out["pixel_boxes"][0] / np.tile(image.size, 2) - corners).max() <= 1e-5
        np.testing.assert_array_equal(out["labels"][0], logits[i, :, :-1].argmax(-1))


def test_onnx_that_fails_or_differs_is_not_written(checkpoint, tmp_path, monkeypatch):
    onnx_packages()
    options = ["--checkpoint", checkpoint, "--out", tmp_path / "e", "--onnx", 64, 96]

    def fail(program, inputs):
        raise NotImplementedError("no such primitive\nand more")

    monkeypatch.setattr(export_onnx, "_convert", fail)
    with pytest.raises(InputError, match=r"jax2onnx \d.*could not convert.*\(no such primitive\)"):
        call(monkeypatch, *options)

    def wrong(program, inputs):
        out = dict(zip(export.OUTPUTS, map(np.array, program(**inputs))))
        return b"", out | {"boxes": out["boxes"] + np.float32(1e-3)}

    monkeypatch.setattr(export_onnx, "_convert", wrong)
    with pytest.raises(InputError, match="computes other numbers"):
        call(monkeypatch, *options)
    assert not (tmp_path / "e").exists()
    with pytest.raises(InputError, match="multiples of the patch"):
        call(monkeypatch, *options[:-1], 97)
