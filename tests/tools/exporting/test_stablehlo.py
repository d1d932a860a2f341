"""Compares exported programs with the Detector on real images, also in a process without this package."""

import json
import shutil

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import export as jax_export
from PIL import Image
from reference_pack import ROOT
from tiny_export import CONFIG, LONG, SHORT, call, checkpoint_in, real_images, run
from tiny_weights import huggingface_folder

from yolos_jax import Detector
from yolos_jax.images.reading import open_rgb
from yolos_jax.images.sequence import Geometry, most_patches, resized_size, rounded_tokens
from yolos_jax.tools.exporting import stablehlo as export
from yolos_jax.tools.exporting.run_detector import ExportedDetector, Unusable, open_upright, target_size

# Runs a script as on a machine without this package, flax, orbax and safetensors.
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
    return checkpoint_in(tmp_path_factory.mktemp("checkpoint") / "c")


@pytest.fixture(scope="module")
def detector(checkpoint):
    return Detector.load(checkpoint)


@pytest.fixture(scope="module")
def images():
    return real_images()


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """The default output of `python -m yolos_jax.programs.export`."""
    folder = tmp_path_factory.mktemp("exported") / "deep" / "e"
    done = run("-m", "yolos_jax.programs.export", "--checkpoint", checkpoint, "--out", folder, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "programs for 104 patches on cpu, cuda, tpu" in done.stdout and "note" not in done.stdout
    return folder


def assert_same(found, detections):
    """Compares an exported program's results with a Detector's: boxes within 1e-5 of the image's sides."""
    assert len(found) == len(detections)
    for objects, d in zip(found, detections):
        assert [o["label"] for o in objects] == list(d.labels) and [o["name"] for o in objects] == d.names
        np.testing.assert_allclose([o["score"] for o in objects], d.scores, atol=1e-5, rtol=0)
        off = np.abs(np.array([o["box"] for o in objects]) - d.boxes) / np.tile(d.size, 2)
        assert off.max(initial=0.0) <= 1e-5


def test_runs_without_this_package(exported, detector, images, tmp_path):
    """The folder is moved first, to check that its files do not contain its path."""
    folder = shutil.copytree(exported, tmp_path / "moved")
    done = run("-I", "-c", WITHOUT_US, folder / "run_detector.py", *images, "--threshold", "0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    detections = detector(images, threshold=0.0)
    assert_same([one["objects"] for one in told], detections)
    assert [(one["file"], (one["width"], one["height"])) for one in told] == [
        (image, d.size) for image, d in zip(images, detections)
    ]


def test_bit_equal_for_equal_shapes(checkpoint, detector, images, tmp_path, monkeypatch):
    """With the Detector's bucket and batch size, a program computes bit-identical results on the same device."""
    size = resized_size(*open_rgb(images[0]).size, SHORT, LONG, CONFIG.patch_size)
    patches = rounded_tokens(size[0] * size[1] // CONFIG.patch_size**2)
    call(monkeypatch, "--checkpoint", checkpoint, "--out", tmp_path / "e", "--patches", patches)
    (found,) = ExportedDetector(tmp_path / "e")([open_upright(images[0])], 0.0)
    (want,) = detector([images[0]], 0.0)
    assert [o["score"] for o in found] == want.scores.tolist()
    assert [o["box"] for o in found] == want.boxes.tolist()


def batch_of(images, patches, fill):
    """Packs images as inputs of a program, padded with the given value."""
    array = np.full((len(images), patches, CONFIG.patch_values), fill, np.uint8)
    grid, size = np.zeros((len(images), 2), np.int32), np.zeros((len(images), 2), np.float32)
    p = CONFIG.patch_size
    for i, image in enumerate(images):
        image = open_rgb(image, upright=True)
        size[i] = image.size
        wanted = resized_size(*image.size, SHORT, LONG, p)
        pixels, grid[i] = np.asarray(image.resize(wanted, Image.Resampling.BILINEAR)), (wanted[1] // p, wanted[0] // p)
        cuts = [pixels[r : r + p, c : c + p].ravel() for r in range(0, wanted[1], p) for c in range(0, wanted[0], p)]
        array[i, : len(cuts)] = cuts
    return array, grid, size


def test_any_batch_with_any_padding(exported, detector, images):
    """One program accepts 1 and 6 images of different sizes; all outputs match those of the Detector."""
    facts = json.loads((exported / "export.json").read_text())
    loaded = jax_export.deserialize((exported / facts["programs"][0]["file"]).read_bytes())
    with np.load(exported / "parameters.npz") as arrays:
        parameters = dict(arrays)
    for n in (1, 6):
        out = loaded.call(parameters, *batch_of(images[:n], 104, 0))
        other = loaded.call(parameters, *batch_of(images[:n], 104, 255))
        assert all(np.array_equal(out[name], other[name]) for name in export.OUTPUTS)
        opened = [open_rgb(image) for image in images[:n]]
        sized = [np.asarray(i.resize(resized_size(*i.size, SHORT, LONG, CONFIG.patch_size), 2)) for i in opened]
        logits, boxes = detector.forward(sized)
        np.testing.assert_allclose(out["boxes"], boxes, atol=1e-5, rtol=0)
        np.testing.assert_allclose(out["logits"], logits, atol=1e-5 * np.abs(logits).max(), rtol=0)
        corners = np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)
        scale = np.array([image.size * 2 for image in opened])[:, None]
        assert np.abs(out["pixel_boxes"] / scale - corners).max() <= 1e-5
        np.testing.assert_array_equal(out["labels"], logits[..., :-1].argmax(-1))
        p = np.exp(logits - logits.max(-1, keepdims=True))
        np.testing.assert_allclose(out["scores"], (p / p.sum(-1, keepdims=True))[..., :-1].max(-1), atol=1e-5)


def test_several_programs_with_a_fixed_batch_size(checkpoint, detector, images, tmp_path, monkeypatch, capsys):
    out = tmp_path / "e"
    options = ["--image-size", 64, 80, "--patches", 96, 80, "--batch-size", 4, "--platforms", "cpu"]
    call(monkeypatch, "--checkpoint", checkpoint, "--out", out, *options)
    assert "up to 104 patches; there is no program for images with more than 96 patches" in capsys.readouterr().out
    loaded = ExportedDetector(out)
    assert [entry["patches"] for entry in loaded.description["programs"]] == [80, 96]
    assert loaded.description["batch"] == 4 and loaded.description["platforms"] == ["cpu"]
    assert loaded.program(80)[1] == 80 and loaded.program(81)[1] == 96
    images = [open_upright(image) for image in images]
    everything = detector(images, 0.0)
    assert_same(loaded(images, 0.0), everything)
    middle = float(np.median([d.scores for d in everything]))
    assert_same(loaded(images, middle), detector(images, middle))
    with pytest.raises(Unusable, match="no program for an image of 104 patches; .*--patches"):
        loaded([Image.new("RGB", (106, 64))])


def test_description_matches_the_programs(exported):
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
    assert facts["images"]["short_side"] == SHORT and facts["images"]["max_side"] == LONG
    assert sorted(path.name for path in exported.iterdir()) == [
        "detector-104.stablehlo", "export.json", "parameters.npz", "run_detector.py"
    ]  # fmt: skip


def outputs_in(facts, outputs):
    """The outputs in the order of the description."""
    return [outputs[name] for name in facts["outputs"]]


def test_huggingface_folder_with_other_sizes(tmp_path, monkeypatch):
    folder = huggingface_folder(tmp_path / "hf")
    call(monkeypatch, "--checkpoint", folder, "--out", tmp_path / "e", "--short-side", 40, "--max-side", 50)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    found = ExportedDetector(tmp_path / "e")([noise], 0.0)
    assert_same(found, Detector.load(folder, 40, 50)([noise], 0.0))


@given(
    st.integers(1, 3000), st.integers(1, 3000), st.integers(16, 900), st.integers(16, 1400), st.sampled_from([8, 16])
)
def test_resizing_matches_the_package(width, height, short_side, max_side, patch):
    geometry = Geometry.of(short_side, max_side, patch, 200)
    size = geometry.size(width, height)
    assert target_size(width, height, short_side, max_side, patch) == size
    assert size[0] * size[1] // patch**2 <= most_patches(geometry.short_side, geometry.max_side, geometry.patch)


@pytest.mark.parametrize("width, height", [(786, 1592), (1592, 786), (1, 5000), (3000, 1), (640, 480), (800, 1333)])
@pytest.mark.parametrize("short_side, max_side", [(79, 159), (800, 1333), (512, 853), (800, 600)])
def test_resizing_extreme_images_matches_the_package(width, height, short_side, max_side):
    """For 786 x 1592 pixels, short side 79 and maximum 159, rounding makes the long side one patch too long."""
    geometry = Geometry.of(short_side, max_side, 16, 100)
    size = geometry.size(width, height)
    assert target_size(width, height, short_side, max_side, 16) == size
    assert size[0] * size[1] // 256 <= most_patches(geometry.short_side, geometry.max_side, geometry.patch)


@pytest.mark.parametrize("short_side, max_side, most", [(800, 1333, 50 * 83), (512, 853, 32 * 53), (79, 159, 4 * 10)])
def test_most_patches(short_side, max_side, most):
    assert most_patches(short_side, max_side) == most


def test_applies_the_exif_orientation(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    image.convert("P").save(tmp_path / "palette.png")
    for name in ("turned.png", "palette.png"):
        ours = open_rgb(tmp_path / name, upright=True)
        np.testing.assert_array_equal(np.asarray(open_upright(str(tmp_path / name))), np.asarray(ours))
