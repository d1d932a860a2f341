"""Tests uploads with yolos-convert --push to a simulated hub, and the code examples in model cards."""

import contextlib
import io
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from local_hub import NOWHERE, READ, WRITE, local_hub, point_to
from made_classes import classifier_config
from micro_run import micro_config, micro_data
from PIL import Image
from tiny_weights import TINY, random_params

from yolos_jax import Detector
from yolos_jax.config.reader import read_any, read_recipe, to_json
from yolos_jax.config.recipes import DetectionConfig
from yolos_jax.errors import InputError
from yolos_jax.model.classifier import classifier_params
from yolos_jax.model.classifier_config import ClassifierConfig
from yolos_jax.tasks.recipe import model_of
from yolos_jax.tools.card_pictures import example_pictures, jpeg
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.weights import checkpoints, export_huggingface
from yolos_jax.weights.model_card import Presentation
from yolos_jax.weights.sharing import find_repository, push_folder

WRITTEN = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A simulated hub, selected with HF_ENDPOINT, and a token with write access."""
    with local_hub() as hub:
        point_to(hub.address, tmp_path / "cache", monkeypatch)
        monkeypatch.setenv("HF_TOKEN", WRITE)
        yield hub


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run: a checkpoint with random weights, curves and three sheets of validation images."""
    root = tmp_path_factory.mktemp("shared")
    config = read_recipe(micro_config(micro_data(root / "data")), DetectionConfig)
    model = model_of(config, 10)
    extra = {"config": to_json(config), "evaluations": [{"step": 4, "AP": 0.25, "AP50": 0.5}]}
    names = dict(enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]))
    checkpoints.save(root / "run", 4, weak_params(model, 0.5), Meta(model, names, 4, extra))
    Image.new("RGB", (40, 30), "white").save(root / "run" / "curves.png")
    (root / "run" / "validation").mkdir()
    for step in (2, 4, 6):
        Image.new("RGB", (20, 10 * step), "blue").save(root / "run" / "validation" / f"step-{step:08}.jpg")
    return root / "run"


def weak_params(model, scale):
    """Returns scaled random parameters; a smaller scale leads to lower scores."""
    return jax.tree.map(lambda x: np.float32(scale) * x, random_params(model, 1))


@pytest.fixture
def exported(tmp_path):
    """A folder to upload."""
    export_huggingface(random_params(TINY), TINY, None, tmp_path / "out", presentation=Presentation("me/tiny", "mit"))
    return tmp_path / "out"


def codes_of(card):
    """Returns the Python code in a card, keyed by the library that it uses."""
    found = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    kinds = [kind for code in found for kind in ("yolos_jax", "transformers") if f"from {kind} import" in code]
    assert len(kinds) == len(found)
    return dict(zip(kinds, found))


def printed(code):
    """Runs code and returns the lines that it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "card", "exec"), {})
    return out.getvalue().splitlines()


def same(found, wanted):
    """Whether detections are bit-equal."""
    return found.names == wanted.names and all(
        np.array_equal(getattr(found, name), getattr(wanted, name)) for name in ("boxes", "scores", "labels")
    )


def test_shares_run_with_working_card(hub, run, call, tmp_path, monkeypatch):
    from huggingface_hub import ModelCard

    done = call("convert.py", run, "--push", "me/boxes", "--license", "mit")
    assert done.returncode == 0, done.stderr
    stored = hub.repositories["me/boxes"]
    pictures = {"curves.png", "validation.jpg", "example.jpg", "detections.jpg"}
    assert stored.files.keys() == WRITTEN | pictures | {".gitattributes"} and len(stored.commits) == 2
    assert stored.large == {"model.safetensors", *pictures} and not stored.private
    assert stored.files["curves.png"] == (run / "curves.png").read_bytes()
    assert Image.open(io.BytesIO(stored.files["validation.jpg"])).size == (20, 40)  # at the checkpoint's step
    before, after = done.stdout.split("uploading to the public repository")
    assert (
        "the upload includes images from your data: validation.jpg, example.jpg, detections.jpg; use --no-examples"
        in before
    )
    assert f"shared: {hub.address}/me/boxes (commit {stored.newest})" in after

    card = ModelCard(stored.files["README.md"].decode())
    assert card.data.license == "mit" and card.data.pipeline_tag == "object-detection"
    assert card.data.widget[0]["src"] == f"{hub.address}/me/boxes/resolve/main/example.jpg"
    assert {*re.findall(r"!\[[^\]]+\]\((\S+)\)", card.text)} == pictures - {"example.jpg"}

    image, ours = stored.files["example.jpg"], Detector.load(run)
    wanted = ours(image, threshold=0.5)
    assert len(wanted) and same(Detector.load("me/boxes")(image, threshold=0.5), wanted)
    monkeypatch.chdir(tmp_path)
    rows = zip(wanted.names, wanted.scores.round(2), wanted.boxes.round())
    assert printed(codes_of(card.text)["yolos_jax"]) == [f"{name} {score!s} {box}" for name, score, box in rows]


def test_custom_example_image_or_none(hub, run, call, tmp_path):
    photo = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112], exif[0x8825] = 6, {1: "N", 2: (52.0, 31.0, 12.0)}  # rotation; GPS position
    Image.radial_gradient("L").resize((1500, 750)).save(photo, exif=exif)
    done = call("convert.py", run, "--push", "me/photo", "--private", "--example", photo, "--out", tmp_path / "kept")
    assert done.returncode == 0 and "your data" not in done.stdout, done.stderr
    stored = hub.repositories["me/photo"]
    assert stored.private and stored.files.keys() >= {"example.jpg", "curves.png"}
    assert "validation.jpg" not in stored.files
    shown = Image.open(io.BytesIO(stored.files["example.jpg"]))
    assert shown.size == (666, 1333) and not shown.getexif()
    assert {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()}.items() <= stored.files.items()

    stored.files["notes.txt"] = b"by hand"
    before = stored.newest
    done = call("convert.py", run, "--push", "me/photo", "--replace", "--no-examples")
    assert done.returncode == 0 and f"previous commit: {hub.address}/me/photo/tree/{before}" in done.stdout
    assert "removed files that are not in this upload: detections.jpg, example.jpg" in done.stdout
    assert stored.files.keys() == WRITTEN | {"curves.png", "notes.txt", ".gitattributes"}
    assert 'image = "image.jpg"  # replace this' in stored.files["README.md"].decode()
    again = call("convert.py", run, "--push", "me/photo", "--replace", "--no-examples")
    assert "nothing has changed" in again.stdout and len(stored.commits) == 3


def test_example_of_weak_detector(run):
    """The example is the image with the highest score, and the threshold in the card's code is at most that score."""
    model = checkpoints.load_detector(run)[1].model
    detector = Detector(weak_params(model, 0.3), Meta(model, {}), short_side=48)
    noise = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), np.uint8)
    files, threshold = example_pictures([Image.fromarray(each) for each in noise], detector)
    best = max(detector(jpeg(Image.fromarray(each)), threshold=0.0).scores[0] for each in noise)
    found = detector(files["example.jpg"], threshold=threshold)
    assert 0 < threshold <= best < 0.5 and len(found) and found.scores[0] == best
    drawn = np.asarray(Image.open(io.BytesIO(files["detections.jpg"])), np.float32)
    assert np.abs(drawn - np.asarray(found.draw(files["example.jpg"]))).mean() < 2
    assert example_pictures([], detector) == ({}, 0.5)


def test_no_example_images_without_run(hub, exported, call):
    done = call("convert.py", exported, "--push", "me/tiny")
    assert done.returncode == 0 and "no example image" in done.stdout and "--example IMAGE" in done.stdout
    assert hub.repositories["me/tiny"].files.keys() == WRITTEN | {".gitattributes"}


@pytest.fixture
def classifier(tmp_path):
    """The folder of a classifier run."""
    model = ClassifierConfig(width=12, depth=2, heads=2, image_size=32, num_classes=2)
    extra = {"config": to_json(read_any(classifier_config("data"))), "top1": 0.5}
    meta = Meta(model, {0: "blue", 1: "red"}, 3, extra)
    checkpoints.save(tmp_path / "run", 3, classifier_params(model), meta)
    Image.new("RGB", (8, 8)).save(tmp_path / "run" / "curves.png")
    return tmp_path / "run"


def test_shares_classifier(hub, classifier, call):
    done = call("convert.py", classifier, "--push", "me/colours")
    assert done.returncode == 0, done.stderr
    files = hub.repositories["me/colours"].files
    assert files.keys() == WRITTEN | {"timm.safetensors", "curves.png", ".gitattributes"}
    assert "pipeline_tag: image-classification" in files["README.md"].decode()
    refused = call("convert.py", classifier, "--push", "me/colours")
    assert refused.returncode == 2 and "--replace" in refused.stderr


def test_card_code_runs_in_folder(tmp_path, monkeypatch, run, call):
    assert call("convert.py", run, "--to-hf", "--out", tmp_path / "out").returncode == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == WRITTEN
    monkeypatch.chdir(tmp_path / "out")
    Image.radial_gradient("L").save("image.jpg")
    wanted = Detector.load(run)("image.jpg")
    assert len(printed(codes_of(Path("README.md").read_text())["yolos_jax"])) == len(wanted) > 0


@pytest.mark.parity
@pytest.mark.parametrize("shared", [True, False])
def test_card_code_for_transformers_runs(shared, hub, run, call, tmp_path, monkeypatch):
    """For a model on the hub and in a folder, the code prints the detections of the run's detector."""
    pytest.importorskip("torch", reason="PyTorch is not installed (parity extra)")
    pytest.importorskip("transformers", reason="transformers is not installed (parity extra)")
    target = ["--push", "me/boxes"] if shared else ["--to-hf"]
    assert call("convert.py", run, *target, "--out", tmp_path / "out").returncode == 0
    Image.radial_gradient("L").save(tmp_path / "out" / "image.jpg")
    monkeypatch.chdir(tmp_path / ("." if shared else "out"))
    code = codes_of((tmp_path / "out" / "README.md").read_text())["transformers"]
    found = [json.loads(line.replace("'", '"')) for line in printed(code)]
    wanted = Detector.load(run)(tmp_path / "out" / ("example.jpg" if shared else "image.jpg"))
    assert len(found) == len(wanted) > 0
    found.sort(key=lambda each: -each["score"])
    for each, name, score, box in zip(found, wanted.names, wanted.scores, wanted.boxes):
        assert each["label"] == name and abs(each["score"] - score) < 1e-4
        assert np.abs(np.array([*each["box"].values()]) - box).max() < 1.01  # truncated to whole pixels


@pytest.mark.parity
def test_classifier_card_code_runs(hub, classifier, call, tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="PyTorch is not installed (parity extra)")
    pytest.importorskip("transformers", reason="transformers is not installed (parity extra)")
    Image.radial_gradient("L").save(tmp_path / "photo.png")
    done = call("convert.py", classifier, "--push", "me/colours", "--example", tmp_path / "photo.png")
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    code = codes_of(hub.repositories["me/colours"].files["README.md"].decode())["transformers"]
    found = [json.loads(line.replace("'", '"')) for line in printed(code)]
    assert {each["label"] for each in found} == {"blue", "red"}
    assert abs(sum(each["score"] for each in found) - 1) < 1e-5


def refused(text, folder, name="me/tiny", **how):
    with pytest.raises(InputError, match=text) as told:
        push_folder(folder, name, **how)
    assert "\n" not in str(told.value)


def test_user_errors(hub, exported, monkeypatch, tmp_path):
    from huggingface_hub import constants

    for name in ("tiny", "me/tiny/more", "me/tiny.pth", "me/a--b", "https://hub/me/tiny", "me/tiny@main", ""):
        refused("is not a valid model name on the hub", exported, name)
    for token, text in {"bad": "rejected the token", READ: "no write access to me/tiny .*the rights to create"}.items():
        monkeypatch.setenv("HF_TOKEN", token)
        refused(text, exported)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    refused("no token for the hub; run hf auth login, or set HF_TOKEN", exported)
    monkeypatch.setenv("HF_TOKEN", WRITE)
    hub.answers = {"POST /api/repos/create": (409, {"X_Error_Message": "You already created this model repo"})}
    refused("me/tiny already exists .*choose another name", exported)
    hub.answers = {"GET /api/models/me/tiny": (503, {})}
    refused("503", exported)
    hub.answers = {}
    export_huggingface(random_params(TINY), TINY, None, tmp_path / "odd", presentation=Presentation(license="free"))
    refused('rejects the header of the model card .*"license" must be one of', tmp_path / "odd")
    assert not hub.repositories  # no repository was created
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("HF_HUB_OFFLINE is set", exported)
    point_to(NOWHERE, tmp_path / "cache", monkeypatch)
    refused("could not be uploaded .*ConnectError.*check the network", exported)


def test_keeps_existing_files(hub, exported, monkeypatch):
    first = hub.add("me/tiny", {".gitattributes": b"", "README.md": b"mine", "config.json": b'{"model_type": "bert"}'})
    refused(rf"contains 2 files \(README.md, config.json\) in commit {first}; .*--replace", exported)
    refused("a 'bert' model, but this is a 'yolos' model", exported, replace=True)
    refused("exists and is public", exported, replace=True, private=True)
    hub.add("me/tiny", {"README.md": b"mine"})
    assert find_repository("me/tiny", replace=True).files == ("README.md",)
    hub.answers = {"preupload": (403, {"X_Error_Message": "read-only"})}
    refused("no write access to me/tiny .read-only", exported, replace=True)
    hub.answers = {}
    newest, validated = hub.repositories["me/tiny"].newest, []

    class Meanwhile(dict):  # adds a commit between the check and the upload
        def items(self):
            if hub.asked[-1].endswith("preupload/main") and not validated:
                validated.append(hub.add("me/tiny", {"README.md": b"theirs"}))
            return super().items()

    hub.answers = Meanwhile()
    refused("changed by someone else during the upload", exported, replace=True)
    assert hub.repositories["me/tiny"].files == {"README.md": b"theirs"} and validated
    done = push_folder(exported, "me/tiny", replace=True)
    assert done.before == validated[0] != newest and done.commit == hub.repositories["me/tiny"].newest
    assert list(hub.repositories["me/tiny"].commits)[:3] == [first, newest, validated[0]]


def test_upload_to_empty_repository(hub, exported):
    hub.add("me/tiny", {".gitattributes": b""}, private=True)
    done = push_folder(exported, "me/tiny")
    assert done.before and not done.removed and hub.repositories["me/tiny"].private
    assert hub.repositories["me/tiny"].files.keys() == WRITTEN | {".gitattributes"}
