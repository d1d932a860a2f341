"""Compiled programs on disk: where they go, when they do not, and that the next process finds them."""

import os
import stat
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image
from reference_pack import ROOT
from tiny_export import checkpoint_in

from yolos_jax import Detector
from yolos_jax.compiled import OFF, keep_compiled


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The user's cache folder, of a process that was told nothing about compiled programs."""
    before = {name: getattr(jax.config, name) for name in ("jax_compilation_cache_dir", "jax_enable_compilation_cache")}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield tmp_path / "cache" / "yolos-jax" / "compiled"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def entries(folder):
    """Names of the programs in a folder."""
    return sorted(path.name.split("-")[0] for path in folder.glob("*-cache"))


def program(name, compute):
    """Compiles and runs a new program of that name."""
    compute.__name__ = name
    return jax.jit(compute)(jnp.arange(3.0))


def test_the_users_folder_unless_jax_was_told_otherwise(home, tmp_path):
    assert keep_compiled(OFF) == "" and jax.config.jax_compilation_cache_dir is None
    assert keep_compiled() == ""
    np.testing.assert_array_equal(program("kept", lambda x: 2 * x + 1), [1, 3, 5])
    assert "jit_kept" in entries(home)
    if os.name == "posix":
        assert stat.S_IMODE(home.stat().st_mode) == 0o700  # jax runs what lies there
    assert keep_compiled(tmp_path / "mine") == ""  # although a cache is in use already
    program("moved", lambda x: 3 * x + 1)
    assert "jit_moved" in entries(tmp_path / "mine") and "jit_moved" not in entries(home)
    assert keep_compiled() == "" and jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    assert keep_compiled(tmp_path / "another") == "" and not (tmp_path / "another").exists()


def test_programs_with_a_host_callback_are_not_kept(home):
    """So the step with the host's matching is compiled anew in every process, as docs/training.md says."""
    keep_compiled()

    def asks(x):
        return jax.pure_callback(lambda x: np.asarray(x) + 1, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    np.testing.assert_array_equal(program("asks", asks), [1, 2, 3])
    program("kept", lambda x: 5 * x)
    assert "jit_kept" in entries(home) and "jit_asks" not in entries(home)


def test_a_folder_that_cannot_be_used(home, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for where in (tmp_path / "file" / "below", "a\0b"):
        note = keep_compiled(where)
        assert note.startswith("compiled programs are not kept") and "\n" not in note and note.endswith(".")
    home.mkdir(parents=True)
    home.chmod(0o777)
    assert "others can write" in keep_compiled()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="not kept.*JAX_COMPILATION_CACHE_DIR"):
        Detector.load(checkpoint_in(tmp_path / "c"))
    assert jax.config.jax_compilation_cache_dir is None


def test_the_next_process_finds_the_detector(tmp_path):
    checkpoint = checkpoint_in(tmp_path / "c")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save(tmp_path / "a.png")
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_EXPLAIN_CACHE_MISSES": "1", "JAX_LOG_COMPILES": "1"}

    def predict(out, *flags):
        image, flags = tmp_path / "a.png", ("--threshold=0", *flags)
        command = ["predict.py", image, "--checkpoint", checkpoint, "--out", out, *flags]
        done = subprocess.run(
            [sys.executable, *map(str, command)], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stderr, (out / "a.json").read_text()

    folder = tmp_path / "yolos-jax" / "compiled"
    assert "cache hit" not in predict(tmp_path / "off", "--compilation-cache", "off")[0] and not folder.exists()
    first, found = predict(tmp_path / "1")
    second, again = predict(tmp_path / "2")
    hit = "Persistent compilation cache hit for 'jit_detect'"
    assert entries(folder) == ["jit_detect"] and hit not in first and hit in second and found == again
    (tmp_path / "yolos-jax").rename(tmp_path / "moved")
    (tmp_path / "yolos-jax").write_text("")
    third, _ = predict(tmp_path / "3")
    assert [line for line in third.splitlines() if line.startswith("note: ")] != [] and third.count("not kept") == 1
