"""Tests models on the hub: with a prepared cache, offline, and with a simulated hub."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cpu_devices import cpu_devices
from local_hub import NOWHERE, local_hub, point_to
from tiny_weights import TINY, assert_bit_equal, deit_state, folder, huggingface_folder, in_hub_cache, random_params

from yolos_jax import Detector
from yolos_jax.errors import InputError
from yolos_jax.inference.loading import load_model
from yolos_jax.weights import checkpoints, hub_model, load_weights
from yolos_jax.weights.image_processor import Sizes, write_processor
from yolos_jax.weights.starting import starting_params

ROOT = Path(__file__).resolve().parents[2]
COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache without network access: sets HF_HUB_OFFLINE in huggingface_hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def yolos_folder(path):
    made = huggingface_folder(path)
    (made / "preprocessor_config.json").write_text(json.dumps(write_processor(Sizes(64, 96))))
    return made


def test_recognises_hub_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "model").mkdir()
    assert hub_model("hustvl/yolos-small") == ("hustvl/yolos-small", None)
    assert hub_model(Path("timm/deit_small_patch16_224.fb_in1k")) == ("timm/deit_small_patch16_224.fb_in1k", None)
    assert hub_model("hustvl/yolos-small@refs/pr/3") == ("hustvl/yolos-small", "refs/pr/3")
    assert hub_model("runs/s@main") == ("runs/s", "main")
    for path in (
        "runs/s",
        "here/model",
        "a/b.pth",
        "a/b.safetensors",
        "a/b.pth.tar@main",
        "a/b/c",
        "/a/b",
        "a",
        "../b",
    ):
        assert hub_model(path) is None, path
    with pytest.raises(InputError, match=r"runs/s does not exist; .*runs is a local folder.*; use runs/s@main"):
        load_weights("runs/s")


def test_all_loaders_accept_hub_names(tmp_path, cache):
    in_hub_cache(cache, "org/yolos", yolos_folder(tmp_path / "made"), COMMIT)
    found = load_weights("org/yolos")
    assert_bit_equal(found.params, random_params(TINY))
    assert found.report.path == f"org/yolos@{COMMIT[:12]}" and found.sizes == (64, 96)
    params, meta = load_model("org/yolos")
    assert_bit_equal(params, random_params(TINY))
    assert meta.extra == {"converted_from": found.report.path, "processor": {"short_side": 64, "max_side": 96}}
    assert Detector.load("org/yolos").geometry[:2] == (64, 96)
    assert Detector.load(Path("org/yolos"), short_side=48).geometry[:2] == (48, 79)
    assert_bit_equal(starting_params(TINY, "org/yolos", 0), random_params(TINY))


def test_revisions(tmp_path, cache):
    in_hub_cache(cache, "org/yolos", yolos_folder(tmp_path / "new"), COMMIT)
    old = yolos_folder(tmp_path / "old")
    (old / "config.json").write_text((old / "config.json").read_text().replace("LABEL_2", "owl"))
    in_hub_cache(cache, "org/yolos", old, OTHER, "v1.0")
    assert load_weights("org/yolos").label_names[2] == "LABEL_2"
    assert load_weights("org/yolos@v1.0").label_names[2] == "owl"
    assert load_weights(f"org/yolos@{OTHER}").label_names[2] == "owl"
    with pytest.raises(InputError, match=r"org/yolos@v2 is not .* HF_HUB_OFFLINE is set, .* --revision v2"):
        load_weights("org/yolos@v2")


def test_offline_and_not_cached(cache):
    with pytest.raises(InputError, match=r"hustvl/yolos-small is not .*, HF_HUB_OFFLINE is set") as told:
        load_weights("hustvl/yolos-small")
    assert str(cache) in str(told.value) and "hf download hustvl/yolos-small" in str(told.value)
    with pytest.raises(InputError, match="hustvl/yolos-small-dwr is not a local file"):
        load_weights("yolos_s_dWr")  # the name of a published model is an alias for its repository
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        Detector.load("hustvl/yolos-small")


def test_incomplete_cache(tmp_path, cache):
    snapshot = in_hub_cache(cache, "org/yolos", yolos_folder(tmp_path / "made"), COMMIT)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has a config\.json but no model\.safetensors"):
        load_weights("org/yolos")
    (snapshot / "config.json").unlink()
    with pytest.raises(InputError, match=r"hub model org/yolos has no config\.json.*; run hf download org/yolos"):
        load_weights("org/yolos")


def test_rejects_classifier_as_detector(tmp_path, cache):
    made = folder(tmp_path / "made", {"architecture": "deit_small_patch16_224"}, deit_state())
    in_hub_cache(cache, "timm/deit", made, COMMIT)
    assert load_weights("timm/deit", TINY)[3].kind == "deit"
    with pytest.raises(InputError, match=r"timm/deit@a+ is a ViT, not a detector"):
        Detector.load("timm/deit")


@pytest.fixture
def hub(tmp_path):
    """A hub with three models: a complete one, one whose download always fails, and one with only PyTorch weights."""
    files = {path.name: path.read_bytes() for path in yolos_folder(tmp_path / "hub").iterdir()}
    other = {"tf_model.h5": b"0" * 100, "onnx/model.safetensors": b"0", "README.md": b""}
    old = {"config.json": files["config.json"], "pytorch_model.bin": b"0" * 100}
    with local_hub() as hub:
        for name, content in {"org/yolos": other | old | files, "org/broken": files, "org/old": old}.items():
            hub.add(name, content, commit=COMMIT)
        hub.halved = {"org/broken"}
        gated = {"X_Error_Code": "GatedRepo", "X_Error_Message": "Access to model is restricted."}
        hub.answers = {"org/gated": (403, gated), "org/down": (503, {})}
        yield hub


ASK = """
import sys
from yolos_jax.errors import InputError
from yolos_jax.weights import load_weights
for name in sys.argv[1:]:
    try:
        print(f"{name}: taken {len(load_weights(name)[3].taken)}")
    except InputError as error:
        print(f"{name}: {error}")
"""


def ask(home, endpoint, *names, **settings):
    """Loads models in a new process, because huggingface_hub reads its environment once; returns {name: output}."""
    environment = cpu_devices() | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"} | settings
    environment |= {"NO_PROXY": "*", "PYTHONPATH": str(ROOT), "HF_HUB_ETAG_TIMEOUT": "2"}
    environment.pop("HF_HUB_OFFLINE", None) if "HF_HUB_OFFLINE" not in settings else None
    done = subprocess.run(
        [sys.executable, "-c", ASK, *names], capture_output=True, text=True, env=environment, cwd=home, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


def answers(*names):
    """Like `ask`, but in this process."""
    told = {}
    for name in names:
        try:
            told[name] = f"taken {len(load_weights(name)[3].taken)}"
        except InputError as error:
            told[name] = str(error)
    return told


def test_download_then_offline(tmp_path, hub, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    names = ("org/yolos", "org/yolos@v9", "org/none", "org/gated", "org/down", "org/broken")
    told = ask(home, hub.address, *names)
    assert told["org/yolos"].startswith("taken ")
    assert told["org/yolos@v9"] == (
        "the hub model org/yolos has no revision v9; see https://huggingface.co/org/yolos/commits."
    )
    assert told["org/none"].startswith("org/none is neither a local file or folder nor a model on the Hugging Face hub")
    assert "accept its conditions on https://huggingface.co/org/gated, then set HF_TOKEN" in told["org/gated"]
    assert "the hub cannot be reached (HfHubHTTPError: " in told["org/down"] and "503" in told["org/down"]
    assert "org/broken could not be downloaded from the hub" in told["org/broken"], told
    assert "run the same command again" in told["org/broken"]
    fetched = {asked.rpartition("/")[2] for asked in hub.asked if asked.startswith("GET") and "/resolve/" in asked}
    assert fetched == {"config.json", "preprocessor_config.json", "model.safetensors"}

    point_to(hub.address, home / "hub", monkeypatch)
    assert "pytorch_model.bin" in answers("org/old")["org/old"]
    assert f"GET /org/old/resolve/{COMMIT}/pytorch_model.bin" in hub.asked

    point_to(NOWHERE, home / "hub", monkeypatch)
    told = answers("org/yolos", "org/none", "org/broken")
    assert told["org/yolos"].startswith("taken ")
    for name in ("org/none", "org/broken"):
        assert f"{name} is not a local file or folder, the hub cannot be reached (ConnectError" in told[name]
    assert ask(home, hub.address, "org/yolos", HF_HUB_OFFLINE="1")["org/yolos"].startswith("taken ")


def test_convert_accepts_hub_name(tmp_path, cache, call):
    in_hub_cache(cache, "org/yolos", yolos_folder(tmp_path / "made"), COMMIT)
    done = call("convert.py", "org/yolos", "--out", tmp_path / "ours")
    assert done.returncode == 0, done.stderr
    assert f"huggingface weights from org/yolos@{COMMIT[:12]}" in done.stdout
    params, meta = checkpoints.load_detector(tmp_path / "ours")
    assert_bit_equal(params, random_params(TINY))
    assert meta.extra["converted_from"] == f"org/yolos@{COMMIT[:12]}"
    assert np.array_equal(Detector.load(tmp_path / "ours").geometry[:2], (64, 96))


def test_eval_requires_out_before_downloading(cache, call):
    """If it downloaded first, the error would be about the empty cache."""
    done = call("eval.py", "--config", "yolos_s", "--checkpoint", "org/yolos")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and last.startswith("error: org/yolos is on the hub") and "--out" in last
