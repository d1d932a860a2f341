"""Tests the cache of compiled programs: where it is, when it is used, and that the next process reuses it."""

import os
import stat
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled_once import compiled_once
from jax.experimental.compilation_cache import compilation_cache
from micro_run import assert_equal_trees, micro_config, micro_data
from PIL import Image
from reference_pack import ROOT
from tiny_export import checkpoint_in
from tiny_weights import TINY

from yolos_jax import Detector, train
from yolos_jax.inference.compiled import OFF, keep_compiled
from yolos_jax.weights.checkpoints import load_detector


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Redirects the user's cache folder, and removes all cache settings from the process."""
    before = {name: getattr(jax.config, name) for name in ("jax_compilation_cache_dir", "jax_enable_compilation_cache")}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield tmp_path / "cache" / "yolos-jax" / "compiled"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def entries(folder):
    """Returns the names of the compiled programs in a folder."""
    return sorted(path.name.split("-")[0] for path in folder.glob("*-cache"))


def program(name, compute):
    """Compiles and runs a new program with the given name."""
    compute.__name__ = name
    return jax.jit(compute)(jnp.arange(3.0))


def test_default_folder(home, tmp_path):
    assert keep_compiled(OFF) == "" and jax.config.jax_compilation_cache_dir is None
    assert keep_compiled() == ""
    np.testing.assert_array_equal(program("kept", lambda x: 2 * x + 1), [1, 3, 5])
    assert "jit_kept" in entries(home)
    if os.name == "posix":
        assert stat.S_IMODE(home.stat().st_mode) == 0o700  # because jax executes programs from this folder
    assert keep_compiled(tmp_path / "mine") == ""  # even if another cache is already in use
    program("moved", lambda x: 3 * x + 1)
    assert "jit_moved" in entries(tmp_path / "mine") and "jit_moved" not in entries(home)
    assert keep_compiled() == "" and jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    assert keep_compiled(tmp_path / "another") == "" and not (tmp_path / "another").exists()


def test_programs_with_a_host_callback_call_the_current_function(home):
    """jax 0.10 does not cache such programs (see docs/training.md); newer versions do."""
    keep_compiled()

    def asking(more):
        def asks(x):
            return jax.pure_callback(lambda x: np.asarray(x) + more, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

        return asks

    for more in (1, 2):
        np.testing.assert_array_equal(program("asks", asking(more)), np.arange(3) + more)
        jax.clear_caches()  # programs that are not on disk are compiled again
    program("kept", lambda x: 5 * x)
    assert "jit_kept" in entries(home)
    if jax.__version_info__ < (0, 11):
        assert "jit_asks" not in entries(home)


def test_unusable_folder(home, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for where in (tmp_path / "file" / "below", "a\0b"):
        note = keep_compiled(where)
        assert note.startswith("compiled programs are not cached") and "\n" not in note and note.endswith(".")
    home.mkdir(parents=True)
    home.chmod(0o777)
    assert "others can write" in keep_compiled()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="not cached.*JAX_COMPILATION_CACHE_DIR"):
        Detector.load(checkpoint_in(tmp_path / "c"))
    assert jax.config.jax_compilation_cache_dir is None


def test_the_next_process_uses_the_cached_detector(home, tmp_path, call):
    checkpoint = checkpoint_in(tmp_path / "c", TINY)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save(tmp_path / "a.png")

    def words(name, *flags):
        out = tmp_path / name
        return [
            *("predict.py", str(tmp_path / "a.png"), "--checkpoint", str(checkpoint), "--out", str(out)),
            *("--threshold=0", *flags),
        ]

    def predict(name, *flags):
        done = call(*words(name, *flags))
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stderr

    with compiled_once():
        predict("off", "--compilation-cache", "off")
        assert not home.exists() and jax.config.jax_compilation_cache_dir is None
        home.parents[1].mkdir()
        home.parent.write_text("")
        said = predict("kept nowhere")
    assert [line for line in said.splitlines() if line.startswith("note: ")] != [] and said.count("not cached") == 1
    home.parent.unlink()
    predict("here")
    assert entries(home) == ["jit_detect"] and jax.config.jax_compilation_cache_dir == str(home)
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"JAX_EXPLAIN_CACHE_MISSES": "1", "JAX_LOG_COMPILES": "1"}
    command = [sys.executable, *words("next")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and entries(home) == ["jit_detect"], done.stderr[-2000:]
    assert "Persistent compilation cache hit for 'jit_detect'" in done.stderr
    here, after = ((tmp_path / name / "a.json").read_text() for name in ("here", "next"))
    assert here == after


def test_training_caches_a_step_with_the_device_matcher(home, tmp_path):
    """A cached step returns bit-equal results. jax 0.10 cannot cache a step that calls the host matcher."""
    data = micro_data(tmp_path / "data")
    once = {"train.max_steps": 1, "eval.compilation_cache": "off"}
    train(micro_config(data, **once), tmp_path / "off", devices=jax.devices()[:1])
    assert not home.exists()
    for name in ("first", "second"):
        train(micro_config(data, **{"train.max_steps": 1}), tmp_path / name, devices=jax.devices()[:1])
        assert entries(home).count("jit_step") == 1
    off, first, second = (load_detector(tmp_path / name)[0] for name in ("off", "first", "second"))
    assert_equal_trees(off, first)
    assert_equal_trees(first, second)
