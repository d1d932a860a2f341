"""Tests `Detector` with images of every type and compares its results with the network's outputs."""

import copy
import io
import multiprocessing
import os
import pickle
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from reference_pack import arrays, pack

from yolos_jax import Detector
from yolos_jax.errors import InputError
from yolos_jax.images.reading import UnreadableImage, open_rgb
from yolos_jax.inference import detector as detecting
from yolos_jax.model.yolos import apply
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.weights import load_weights
from yolos_jax.weights.checkpoints import load_detector, save

NAMES = {i: f"thing {i}" for i in range(1000)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a Hugging Face folder with the stored micro model."""
    path = tmp_path_factory.mktemp("hf")
    shutil.copy(pack("hf_config.json"), path / "config.json")
    shutil.copy(pack("hf_model.safetensors"), path / "model.safetensors")
    return path


@pytest.fixture(scope="module")
def detector(folder):
    found = Detector.load(folder, short_side=64, max_side=256, batch_size=3)
    found.label_names = NAMES
    return found


def noise(width=60, height=44, mode="RGB", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_forward_matches_the_reference_for_mixed_sizes(detector):
    z = arrays("hf_model.npz")
    chosen = range(len(z["sizes_hw"]))
    logits, boxes = detector.forward([z[f"in{i}"].transpose(1, 2, 0) for i in chosen])
    for i, a, b in zip(chosen, logits, boxes):
        np.testing.assert_allclose(a, z[f"logits{i}"], atol=1e-4, rtol=0)
        np.testing.assert_allclose(b, z[f"pred_boxes{i}"], atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="multiples of 16"):
        detector.forward([np.zeros((20, 32, 3), np.uint8)])
    with pytest.raises(InputError, match="increase model.max_side"):
        detector.forward([np.zeros((16, 16 * (detector.geometry.model_max_side + 1), 3), np.uint8)])


def test_uses_the_fastest_network_function_for_the_device(folder, monkeypatch):
    """On one CPU, large images are processed one at a time (tests/model/test_yolos.py checks the outputs)."""
    calls = []

    def applied(*inputs):
        calls.append(inputs[2].shape)
        return apply(*inputs)

    monkeypatch.setattr(detecting, "apply_on", lambda devices: calls.append(devices) or applied)
    Detector.load(folder, short_side=64, max_side=256, batch_size=2)([noise(), noise()])
    assert calls[0] == jax.devices()[:1] and calls[1][0] == 2


def test_bytes_equal_normalized_floats(detector):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 112, 3), np.uint8)
    floats = (pixels / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    for a, b in zip(detector.forward([pixels]), detector.forward([floats])):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_boxes_are_in_original_pixels(detector):
    """Recomputes scores, labels and boxes in NumPy from the outputs of `forward` for a manually resized image."""
    image = noise(350, 200)
    (found,) = detector([image], threshold=0.0)
    sized = np.asarray(image.resize((112, 64), Image.Resampling.BILINEAR))
    logits, boxes = (x[0].astype(np.float64) for x in detector.forward([sized]))
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p = (p / p.sum(-1, keepdims=True))[:, :-1]
    order = np.argsort(-p.max(-1))
    np.testing.assert_allclose(found.scores, p.max(-1)[order], atol=1e-6)
    np.testing.assert_array_equal(found.labels, p.argmax(-1)[order])
    centre, size = boxes[order, :2] * [350, 200], boxes[order, 2:] * [350, 200]
    np.testing.assert_allclose(found.boxes, np.concatenate([centre - size / 2, centre + size / 2], 1), atol=1e-3)
    assert found.names == [NAMES[i] for i in found.labels] and found.size == (350, 200)
    middle = float(np.median(found.scores))
    (fewer,) = detector([image], threshold=middle)
    assert 0 < len(fewer.scores) < len(found.scores) and (fewer.scores >= middle).all()


def test_one_compilation_per_bucket(folder):
    """The number of images does not matter. 64x64 and 64x80 pixels are 16 and 20 patches, in different buckets."""
    detector = Detector.load(folder, short_side=64, max_side=256, batch_size=3)
    for n in (1, 2, 3, 5, 8):
        detector([noise(64, 64)] * n + [noise(64, 80)])
    assert detector._detect._cache_size() == 2


def test_unusual_modes_are_rejected_or_converted(detector):
    with pytest.raises(UnreadableImage, match="floating-point"):
        detector([Image.new("F", (20, 20))])
    assert len(detector([noise(mode="RGBA").convert("La")], 0.0)[0].scores) == detector.config.det_tokens


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_every_mode_and_file_type(detector, tmp_path, mode, ending):
    image = noise(mode="L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    try:
        image.save(tmp_path / f"p.{ending}")
    except OSError:
        pytest.skip(f"{ending} does not support {mode}")
    (a,) = detector([tmp_path / f"p.{ending}"], threshold=0.0)
    (b,) = detector([image], threshold=0.0)
    assert len(a.scores) == detector.config.det_tokens
    if ending != "jpg":  # lossless
        np.testing.assert_array_equal(a.boxes, b.boxes)


def test_sixteen_bits_are_scaled_not_clipped(detector):
    grey = noise(mode="L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    np.testing.assert_array_equal(detector([deep], 0.0)[0].boxes, detector([grey], 0.0)[0].boxes)


def test_warns_about_ignored_frames(detector, tmp_path):
    """Paths, bytes and open files cause a warning; only the first frame's detections are returned."""
    noise().save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (64, 64))] * 2, duration=50)
    noise().save(tmp_path / "a.tif", save_all=True, append_images=[noise(seed=2)])
    data = (tmp_path / "a.tif").read_bytes()
    for given, left in ((tmp_path / "a.tif", 1), (data, 1), (io.BytesIO(data), 1), ([tmp_path / "a.gif", data], 2)):
        with pytest.warns(UserWarning, match=f"only the first of each is used, and the other {left} are skipped"):
            detector(given)
    with pytest.warns(UserWarning):
        np.testing.assert_array_equal(detector(data, 0.0).boxes, detector(noise(), 0.0).boxes)


def test_exif_rotation(detector, tmp_path):
    image = noise(80, 48)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to display it upright
    image.save(tmp_path / "turned.png", exif=exif)
    (turned,) = detector([tmp_path / "turned.png"], 0.0)
    (upright,) = detector([image.transpose(Image.Transpose.ROTATE_270)], 0.0)
    assert turned.size == (48, 80)
    np.testing.assert_array_equal(turned.boxes, upright.boxes)
    assert open_rgb(tmp_path / "turned.png").size == (80, 48), "boxes of data sets refer to the stored pixels"


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (2000, 20), (7, 900)])
def test_tiny_and_panoramic_images(detector, size):
    (found,) = detector([noise(*size)], 0.0)
    assert found.size == size and np.isfinite(found.boxes).all()
    assert found.draw(noise(*size)).size[0] >= size[0]


def test_arrays(detector):
    rgb = np.asarray(noise())
    grey = rgb[:, :, 0]
    (a, b, c, d, e) = detector([rgb, grey, grey[:, :, None], np.dstack([rgb, grey]), noise()], 0.0)
    for one, other in ((b, c), (a, d), (a, e)):
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)
    for bad in (rgb.astype(np.float32), rgb[None], np.zeros((0, 4, 3), np.uint8), np.float32(1)):
        with pytest.raises(UnreadableImage, match="must be uint8"):
            detector([bad])
    for single in (rgb, grey, jnp.asarray(rgb)):
        assert_same(detector(single, 0.0), a if single is not grey else b)
    for batch in (np.stack([rgb, rgb[::-1]]), jnp.stack([rgb, rgb[::-1]])):
        first, second = detector(batch, 0.0)
        assert_same(first, a)
        assert_same(second, detector(rgb[::-1], 0.0))
    assert detector([]) == [] and detector(np.zeros((0, 8, 8, 3), np.uint8)) == []


def test_one_image_or_many(detector, tmp_path):
    """Passes every type of image alone, in a list and from a generator."""
    image = noise()
    path = tmp_path / "p.png"
    image.save(path)
    buffer = io.BytesIO()
    image.save(buffer, "png")  # leaves the read position at the end
    lazy = Image.open(path)
    expected = detector(image, 0.0)
    assert len(expected) == detector.config.det_tokens
    with open(path, "rb") as file:
        kinds = [str(path), path, path.read_bytes(), bytearray(path.read_bytes()), buffer, file, Stream(path), lazy]
        for kind in kinds:
            assert_same(detector(kind, 0.0), expected)
        kinds[6] = Stream(path)  # a stream can be read only once
        for many in (kinds, tuple(kinds[:-2]), (kind for kind in kinds[:3]), np.array([str(path)] * 2)):
            found = detector(many, 0.0)
            assert isinstance(found, list) and len(found) > 1
            for one in found:
                assert_same(one, expected)
    for one in detector([buffer] * 6 + [Image.open(path)] * 6, 0.0):  # several threads read the same file
        assert_same(one, expected)


class Stream:
    """A readable, non-seekable stream, like an HTTP response."""

    def __init__(self, path):
        self.read = open(path, "rb").read  # noqa: SIM115


def assert_same(a, b):
    np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-3)
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)
    assert a.size == b.size


@pytest.mark.parametrize(
    "wrong, kind", [({}, "dict"), (3, "int"), (None, "NoneType"), ([[1, 2], [3, 4]], "list"), ([b"", 1.5], "float")]
)
def test_wrong_type(detector, wrong, kind):
    good = noise()
    if not isinstance(wrong, list):
        with pytest.raises(InputError, match=f"^the image is of type {kind}; it must be a path"):
            detector(wrong)
    for many in ([good, good, wrong], iter([good, good, wrong])):
        name = kind if not isinstance(wrong, list) else "list"
        with pytest.raises(InputError, match=rf"^image 2 \(counted from 0\) is of type {name}; it must be a path"):
            detector(many)


def test_a_file_opened_as_text(detector, tmp_path):
    noise().save(tmp_path / "p.ppm")
    with (
        open(tmp_path / "p.ppm", encoding="latin-1") as file,
        pytest.raises(InputError, match="open it with mode 'rb'"),
    ):
        detector(file)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan"), float("inf"), "0.5", None, [0.5]])
def test_thresholds(detector, threshold):
    with pytest.raises(InputError, match="threshold is .*; it must be a number between 0 and 1"):
        detector(noise(), threshold)


def test_arguments_of_wrong_types(folder):
    for name in ("short_side", "max_side", "batch_size"):
        with pytest.raises(InputError, match=f"{name} is '64'; it must be a whole number"):
            Detector.load(folder, **{name: "64"})


def test_unreadable_files(detector, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    noise().save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-300])
    for name in ("text.jpg", "cut.jpg", "absent.jpg"):
        for path in (tmp_path / name, str(tmp_path / name)):
            with pytest.raises(UnreadableImage, match=name):
                detector([noise(), path])
            with pytest.raises(UnreadableImage, match=name):
                detector(path)
    cut = (tmp_path / "cut.jpg").read_bytes()
    lazy = Image.open(tmp_path / "cut.jpg")
    for bad in (cut, io.BytesIO(cut), lazy):
        with pytest.raises(UnreadableImage, match=r"^image 1 \(counted from 0\) cannot be read \(.*truncated"):
            detector([noise(), bad])
    for bad in (b"", b"no image", io.BytesIO(b"no image")):
        with pytest.raises(UnreadableImage, match="^the image cannot be read .Pillow does not recognise its format.*$"):
            detector(bad)
    closed = io.BytesIO(cut)
    closed.close()
    with pytest.raises(UnreadableImage, match="^the image cannot be read .I/O operation on closed file"):
        detector(closed)


def test_checkpoint_round_trip(detector, folder, tmp_path):
    config, params, _, _, *_ = load_weights(folder)
    extra = {"config": {"data": {"short_side": 48, "max_side": 0}}}
    save(tmp_path / "c", 7, params, Meta(config, NAMES, 7, extra))
    loaded, meta = load_detector(tmp_path / "c")
    assert meta == Meta(config, NAMES, 7, extra)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(loaded)):
        np.testing.assert_array_equal(a, b)
    again = Detector.load(tmp_path / "c", batch_size=3)
    assert again.geometry[:2] == (48, 79) and again.label_names == NAMES
    blank = [np.zeros((48, 64, 3), np.uint8)]
    for a, b in zip(again.forward(blank), detector.forward(blank)):
        np.testing.assert_allclose(a, b, atol=1e-5)
    with pytest.raises(InputError, match="already contains a checkpoint"):
        save(tmp_path / "c", 8, params, meta)
    with pytest.raises(InputError, match="does not exist"):
        Detector.load(tmp_path / "no")
    with pytest.raises(InputError, match="contains no checkpoint"):
        Detector.load(tmp_path)
    for short_side in (2000, 0, -16, 5):
        with pytest.raises(InputError, match="--short-side"):
            Detector.load(tmp_path / "c", short_side=short_side)
    with pytest.raises(InputError, match="batch_size is 0"):
        Detector.load(tmp_path / "c", batch_size=0)
    with pytest.raises(InputError, match="already contains other weights"):
        save(folder, 8, params, meta)
    (tmp_path / "c" / "config.json").write_text("{}")  # does not hide the checkpoint
    assert Detector.load(tmp_path / "c").geometry.short_side == 48


def test_suppression_per_class(folder, detector):
    """Compares with suppression computed in plain Python."""
    with pytest.raises(InputError, match="nms is 2; it must be a number between 0 and 1"):
        Detector.load(folder, nms=2)
    strict = Detector.load(folder, short_side=64, max_side=256, batch_size=3, nms=0.2)
    images = [noise(seed=i) for i in range(3)]
    for every, few in zip(detector(images, threshold=0), strict(images, threshold=0), strict=True):
        kept = []
        for i, (box, label) in enumerate(zip(every.boxes.astype(float), every.labels)):
            better = [every.boxes[k].astype(float) for k in kept if every.labels[k] == label]
            if all(overlap(box, other) <= 0.2 for other in better):
                kept.append(i)
        assert 0 < len(kept) < len(every)
        np.testing.assert_allclose(few.boxes, every.boxes[kept], rtol=1e-5)
        np.testing.assert_array_equal(few.labels, every.labels[kept])


def overlap(a, b):
    """Returns the IoU of two xyxy boxes."""
    inner = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return inner / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner)


def test_a_pickled_detector_returns_the_same_detections(detector):
    """Results are bit-equal, attributes set after loading are kept, and the pickle contains no device arrays."""
    state = detector.__getstate__()
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(state["_params"])) and "_detect" not in state
    again, wanted = pickle.loads(pickle.dumps(detector)), detector(noise(), 0.0)
    assert (again.geometry, again.batch_size, again.label_names) == (detector.geometry, 3, NAMES)
    found = again(noise(), 0.0)
    assert len(found) and found.names == wanted.names and found.size == wanted.size
    for name in ("boxes", "scores", "labels"):
        assert getattr(found, name).tobytes() == getattr(wanted, name).tobytes()
    copied = copy.deepcopy(detector)
    jax.tree.map(np.testing.assert_array_equal, copied.params, detector.params)
    assert copied.params is not detector.params


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_forked_process_raises_instead_of_hanging(detector, folder):
    fork, pickled = multiprocessing.get_context("fork"), pickle.dumps(detector)
    uses = {"call": lambda: detector(noise()), "pickle": lambda: pickle.dumps(detector)}
    uses |= {"unpickled": lambda: pickle.loads(pickled)(noise()), "load": lambda: Detector.load(folder)}
    receiving, sending = fork.Pipe(duplex=False)

    def child():
        for name, use in uses.items():
            try:
                sending.send((name, repr(use())))
            except InputError as error:
                sending.send((name, str(error)))
        os._exit(0)

    process = fork.Process(target=child)
    with warnings.catch_warnings():  # Python and jax warn about forking
        warnings.simplefilter("ignore")
        process.start()
    try:
        for name in uses:
            assert receiving.poll(30), f"{name} hangs"
            said = receiving.recv()
            assert said[0] == name and f"forked from process {os.getpid()}, which has used jax" in said[1]
            assert "get_context('spawn')" in said[1]
    finally:
        process.kill()
        process.join()
