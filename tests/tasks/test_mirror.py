"""Runs and outputs at remote addresses: uploads, their order, and resuming a killed run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import jax
import pytest
import shared_storage  # noqa: F401  # registers the protocol shared://
from compiled_once import compiled_once
from cpu_devices import of_training
from micro_run import assert_equal_trees, lines, micro_config, micro_data
from reference_pack import ROOT

from yolos_jax.address import MARKER, copied, local_path
from yolos_jax.config.reader import read_any
from yolos_jax.errors import InputError, address_of, make_folder
from yolos_jax.tasks import mirror
from yolos_jax.tasks.detection import train
from yolos_jax.tasks.mirror import working_copy
from yolos_jax.weights import checkpoints

CHANGES = {"train.epochs": 400, "eval.every_epochs": 2, "train.max_steps": 0, "checkpoint.keep": 2}
RECIPE = """
from pathlib import Path
import shared_storage
from micro_run import micro_config
from yolos_jax.tasks import mirror

mirror.EVERY = 0.1


def get_config():
    return micro_config(Path({data!r}), **{changes!r})
"""


@pytest.fixture(autouse=True)
def memory(tmp_path_factory, monkeypatch):
    """fsspec's in-memory storage, emptied before and after each test. Local copies are in a temporary folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("copies")))
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.mark.parametrize(
    ("path", "address", "local"),
    [
        ("gs://bucket/run/", "gs://bucket/run", None),
        (Path("s3://bucket/run"), "s3://bucket/run", None),
        ("foo://host/a", "foo://host/a", None),
        ("file:///tmp/a%20b", "", "/tmp/a b"),
        ("file:/tmp/a", "", "/tmp/a"),
        ("runs/s", "", "runs/s"),
        ("org/name@main", "", "org/name@main"),
        ("C:/runs", "", "C:/runs"),
        ("mine:/runs", "", "mine:/runs"),
    ],
)
def test_recognises_addresses(path, address, local):
    assert address_of(path) == address
    if local is not None:
        assert local_path(path) == local


def test_rejects_addresses_where_only_local_paths_work(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="data.root is s3://b/coco; .* local path"):
        read_any(micro_config("s3://b/coco"))
    with pytest.raises(InputError, match="gs://b/out; .* local path"):
        make_folder("gs://b/out")
    with pytest.raises(InputError, match="names the host 'elsewhere'"):
        local_path("file://elsewhere/tmp")
    with pytest.raises(InputError, match="memory://nothing does not exist"):
        copied("memory://nothing")
    with pytest.raises(InputError, match=r"foo://b/run cannot be written to \(Protocol not known: foo\)"):
        train(micro_config(tmp_path), "foo://b/run")
    done = call("convert", "x", "--out=gs://b/hf")
    assert done.returncode == 2 and "--out is gs://b/hf;" in done.stderr
    done = call("train", "--config=digits", "--workdir=x", "--config.eval.compilation_cache=gs://b/c")
    assert done.returncode == 2 and "eval.compilation_cache is gs://b/c;" in done.stderr
    assert not any(tmp_path.iterdir())


def write(folder, name, text="x"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def test_interrupted_upload_leaves_a_resumable_run(memory, monkeypatch):
    """The order is: best checkpoint, metrics line, checkpoint, its marker. Deleted files are also deleted remotely."""
    monkeypatch.setattr(mirror, "EVERY", 3600)
    order = []
    upload = mirror.Remote.upload
    monkeypatch.setattr(mirror.Remote, "upload", lambda self, *args: (order.extend(args[1]), upload(self, *args)))
    with working_copy("memory://b/run", owned=True) as folder:
        for name in (f"1/{MARKER}", "1/params/d", f"best/1/{MARKER}", "best/1/d", "metrics.jsonl", "curves.png"):
            write(folder, name)
        write(folder, "2.orbax-checkpoint-tmp/d")
        write(folder, ".curves.png.7")
    assert order == ["best/1/d", f"best/1/{MARKER}", "curves.png", "1/params/d", f"1/{MARKER}"]
    names = {name.removeprefix("/b/run/") for name in memory.find("/b/run")}
    assert names == {*order, "metrics.jsonl"}
    assert not folder.exists()
    memory.pipe_file("/b/run/2/params/d", b"half")  # left by a killed run
    memory.pipe_file("/b/run/eval-1/metrics.json", b"{}")
    with working_copy("memory://b/run", owned=True) as folder:
        assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == names
        for path in (folder / "1").rglob("*"):
            if path.is_file():
                path.unlink()
        (folder / "metrics.jsonl").write_text("xy")
    names = {name.removeprefix("/b/run/") for name in memory.find("/b/run")}
    assert names == {"best/1/d", f"best/1/{MARKER}", "curves.png", "metrics.jsonl", "eval-1/metrics.json"}
    assert memory.cat_file("/b/run/metrics.jsonl") == b"xy"


def test_later_of_two_runs_at_an_address_continues(memory, monkeypatch, capsys):
    monkeypatch.setattr(mirror, "EVERY", 0.05)
    sentence = "another run .process 7 on host elsewhere. .* memory://b/run"
    with pytest.raises(InputError, match=sentence), working_copy("memory://b/run", owned=True) as folder:
        memory.pipe_file("/b/run/.owner", json.dumps({"host": "elsewhere", "process": 7}).encode())
        write(folder, "metrics.jsonl", "mine")
        with pytest.raises(KeyboardInterrupt):  # a real run would finish its step first
            for _ in range(400):
                time.sleep(0.05)
    assert not memory.exists("/b/run/metrics.jsonl") and (folder / "metrics.jsonl").exists()
    with working_copy("memory://b/run", owned=True):
        pass
    assert "last written by process 7 on host elsewhere, which will be stopped" in capsys.readouterr().out


def test_local_folder_is_kept_if_an_upload_fails(memory, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    sentence = r"could not be written .*\(Permission denied\); .* in /"
    with pytest.raises(InputError, match=sentence) as found, working_copy("memory://b/out", whole=False) as folder:
        write(folder, "1.json")
        monkeypatch.setattr(mirror.Remote, "upload", refuse)
    assert str(folder) in str(found.value) and (folder / "1.json").exists()


@pytest.mark.slow
def test_kill_resume_evaluate_and_predict_at_an_address(tmp_path, monkeypatch, call):
    """A run that is split over two processes has the same result as an uninterrupted run in a local folder."""
    data, storage = micro_data(tmp_path / "data"), tmp_path / "storage"
    monkeypatch.setenv("SHARED_STORAGE", str(storage))
    run, place = "shared://bucket/run", storage / "bucket" / "run"
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE.format(data=str(data), changes=CHANGES))
    command = [sys.executable, "train.py", f"--config={recipe}", f"--workdir={run}"]
    environment = of_training(1, ROOT / "tests" / "helpers") | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + 120
        while not any(place.glob(f"[1-9]*/{MARKER}")):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    step = max(int(path.parent.name) for path in place.glob(f"[1-9]*/{MARKER}"))
    config = micro_config(data, **CHANGES | {"train.max_steps": step + 3})
    with compiled_once():
        outcome = train(config, run, devices=jax.devices()[:1])
        train(config, tmp_path / "whole", devices=jax.devices()[:1])
        assert str(outcome.workdir) == run
        params, meta = checkpoints.load_any(run)
        wanted, _ = checkpoints.load_any(tmp_path / "whole")
        assert_equal_trees(params, wanted)
        assert meta.step == step + 3
        assert [line["step"] for line in lines(place)] == [line["step"] for line in lines(tmp_path / "whole")]
        done = call("eval", f"--config={recipe}", f"--checkpoint={run}")
        assert done.returncode == 0 and f"written to {run}/eval-{meta.step}" in done.stdout, done.stderr
        recorded = json.loads((place / f"eval-{meta.step}" / "metrics.json").read_text())
        assert recorded["AP"] == pytest.approx(lines(tmp_path / "whole")[-1]["val/AP"], abs=1e-6)
        found = ("predict", data / "train2017" / "1.jpg", f"--checkpoint={run}/best", "--out=shared://bucket/found")
        done = call(*found)
        assert done.returncode == 0 and "written to shared://bucket/found" in done.stdout, done.stderr
    assert sorted(os.listdir(storage / "bucket" / "found")) == ["1.json", "1.png"]
    assert "shared://bucket/found/1.png already exists" in call(*found).stderr
