"""Checkpoints of a run: saving, restoring, deleting old ones, and handling damaged ones."""

import errno
import functools
import json
import os
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from micro_run import assert_equal_trees, initial_state
from tiny_weights import TINY, random_params

from yolos_jax import address
from yolos_jax.address import only_run_in
from yolos_jax.config.recipes import detection_recipe
from yolos_jax.distributed.mesh import data_mesh
from yolos_jax.errors import InputError
from yolos_jax.model.yolos import abstract
from yolos_jax.training import checkpoint_files
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.training.metrics import Metrics
from yolos_jax.training.optimizer import make_optimizer
from yolos_jax.training.resume import newest as newest_of
from yolos_jax.training.resume import put_aside_best
from yolos_jax.training.saving import BEST, Checkpoints, best_so_far
from yolos_jax.training.settings import CheckpointSettings, RunSettings
from yolos_jax.training.task import Differences, Identity, Options
from yolos_jax.weights import checkpoints

OPTIMIZER = make_optimizer("adamw", lambda step: 1e-3, 1e-4, 0.1)
FACTS = {"config": detection_recipe().to_dict(), "data": {"fingerprint": "f", "images": 1}, "order": 1, "versions": {}}
SHAPES = abstract(TINY)[1]
SOME = {name: SHAPES[name] for name in ("norm", "class_head")}  # enough for tests in which the arrays do not matter
IDENTITY = Identity(**FACTS, model=TINY, label_names={1: "one"}, category_ids=(7, 1, 9, 4))
TASK = SimpleNamespace(
    shapes=SOME,
    optimizer=OPTIMIZER,
    headline=("AP", "AP50"),
    identity=lambda: IDENTITY,
    differences=lambda before: Differences(before.model.differences(TINY), [], []),
)


@functools.cache
def state_of(step: int, ema: bool = False, whole: bool = False):
    """A state with `SOME` or all parameters; the optimizer state and the average are also filled with random values."""
    params = random_params(TINY, step)
    if not whole:
        params = {name: params[name] for name in SOME}
    state = initial_state(params, OPTIMIZER, data_mesh(jax.devices()[:1]), ema)
    rng = np.random.default_rng(step)

    def fill(x):
        drawn = rng.standard_normal(x.shape) if x.dtype == jnp.float32 else rng.integers(1, 99, x.shape)
        return jnp.asarray(drawn, x.dtype)

    return jax.tree.map(fill, state)._replace(step=jnp.int32(step))


def meta_of(step: int, **extra) -> Meta:
    return IDENTITY.meta(step, **extra)


def saved(folder, steps=(1, 2), keep=3):
    with Checkpoints(folder, keep) as writer:
        for step in steps:
            writer.save(step, state_of(step), meta_of(step))
    return folder


def newest(folder, ema=False, shapes=SOME):
    task = SimpleNamespace(**vars(TASK) | {"shapes": shapes})
    return newest_of(folder, task, Options(RunSettings(ema=0.5 if ema else 0.0), CheckpointSettings()))


def same_arrays(state, *args):
    assert_equal_trees(jax.tree.map(np.asarray, state), jax.tree.map(np.asarray, state_of(*args)))


@pytest.mark.parametrize("ema", [False, True])
def test_everything_is_restored_bit_for_bit(tmp_path, ema):
    with Checkpoints(tmp_path, 2) as writer:
        writer.save(3, state_of(3, ema, whole=True), meta_of(3))
    state, notes = newest(tmp_path, ema, SHAPES)
    same_arrays(state, 3, ema, True)
    loaded, meta = checkpoints.load_detector(tmp_path)
    assert json.dumps(meta.to_json()) == json.dumps(meta_of(3).to_json()) and notes == []
    want = state_of(3, ema, whole=True)
    assert_equal_trees(loaded, jax.tree.map(np.asarray, want.ema if ema else want.params))


def test_moving_average_can_start_later(tmp_path):
    state, _ = newest(saved(tmp_path), ema=True)
    assert_equal_trees(state.ema, state.params)


def test_keeps_the_latest_checkpoints_and_the_best_one(tmp_path):
    with Checkpoints(tmp_path, 2) as writer:
        for step in (1, 2, 3, 4):
            writer.save(step, state_of(step), meta_of(step))
            if step in (1, 2):
                writer.save_best(step, random_params(TINY, step), meta_of(step, AP=0.1 * step))
    assert checkpoint_files.steps(tmp_path) == [3, 4] and checkpoint_files.steps(tmp_path / BEST) == [2]
    assert best_so_far(tmp_path, "AP") == (2, pytest.approx(0.2))
    assert_equal_trees(checkpoints.load_detector(tmp_path / BEST)[0], random_params(TINY, 2))


def test_no_best_checkpoint_without_ground_truth(tmp_path):
    """COCO metrics are -1 without ground truth. Earlier versions saved a best checkpoint anyway; it is now ignored."""
    with Checkpoints(tmp_path, 2) as writer:
        for step in (1, 2, 3):
            writer.save(step, state_of(step), meta_of(step))
            said = writer.save_if_best(step, state_of(step).params, meta_of(step, AP=-1.0), "AP")
            assert said == "so there is no best checkpoint"
        assert checkpoint_files.steps(tmp_path / BEST) == [] and best_so_far(tmp_path, "AP") is None
        writer.save_best(1, state_of(1).params, meta_of(1, AP=-1.0))
        assert best_so_far(tmp_path, "AP") is None
        assert writer.save_if_best(2, state_of(2).params, meta_of(2, AP=0.0), "AP") == "the best so far"
        assert writer.save_if_best(3, state_of(3).params, meta_of(3, AP=-1.0), "AP") != "the best so far"
    assert checkpoint_files.steps(tmp_path) == [2, 3] and best_so_far(tmp_path, "AP") == (2, 0.0)


def files(folder):
    return sorted(os.path.relpath(os.path.join(root, f), folder) for root, _, names in os.walk(folder) for f in names)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # from orbax, about unreadable files
@pytest.mark.parametrize("how", ["half", "empty", "gone"])
def test_resumes_with_any_damaged_file(tmp_path, how):
    """Damages each file of the newest step. Unless the file is not needed, the previous step is used, with a note."""
    original, fell_back = saved(tmp_path / "whole"), 0
    # Per-process files are not read after they have been merged, so one kind of damage is enough for them.
    for name in (f for f in files(original / "2") if how == "gone" or "ocdbt.process" not in f):
        folder = shutil.copytree(original, tmp_path / "copy")
        path = folder / "2" / name
        if how == "gone":
            path.unlink()
        else:
            os.truncate(path, path.stat().st_size // 2 if how == "half" else 0)
        state, notes = newest(folder)
        same_arrays(state, int(state.step))
        if state.step == 1:
            fell_back += 1
            assert len(notes) == 1 and "moved to damaged-2" in notes[0] and (folder / "damaged-2").is_dir()
            with Checkpoints(folder, 3) as writer:  # the step can be written again
                writer.save(2, state_of(2), meta_of(2))
            same_arrays(newest(folder)[0], 2)
        else:
            assert state.step == 2 and notes == []
        shutil.rmtree(folder)
    assert fell_back >= 5  # manifest and data of parameters and of the optimizer, and the metadata


def test_moves_an_incomplete_step_aside(tmp_path):
    saved(tmp_path)
    shutil.rmtree(tmp_path / "2" / "meta")
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()
    state, (note,) = newest(tmp_path)
    same_arrays(state, 1)
    assert "is incomplete; moved to damaged-2" in note
    with Checkpoints(tmp_path, 3):
        assert not (tmp_path / "3.orbax-checkpoint-tmp").exists()


def test_keeps_everything_if_no_checkpoint_is_readable(tmp_path):
    saved(tmp_path)
    for step in (1, 2):
        (tmp_path / str(step) / "optimizer" / "manifest.ocdbt").write_bytes(b"")
    for _ in range(2):  # the second attempt must not find an empty folder
        with pytest.raises(InputError, match="2 cannot be read.*1 cannot be read.*All are unchanged"):
            newest(tmp_path)
    assert checkpoint_files.steps(tmp_path) == [1, 2]


def test_best_checkpoint_is_not_a_run_and_can_be_put_aside(tmp_path):
    with Checkpoints(tmp_path, 2) as writer:
        writer.save_best(2, state_of(2).params, meta_of(2, AP=0.2))
    with pytest.raises(InputError, match="weights .*--config.init="):
        newest(tmp_path / BEST)
    assert best_so_far(tmp_path, "AP")[0] == 2
    (note,) = put_aside_best(tmp_path, 1)
    assert "damaged-2" in note and best_so_far(tmp_path, "AP") is None and put_aside_best(tmp_path, 1) == []


def test_does_not_touch_other_folders_with_numeric_names(tmp_path):
    (tmp_path / "2" / "notes").mkdir(parents=True)
    with pytest.raises(InputError, match="looks like a checkpoint but is not one"):
        newest(tmp_path)
    assert (tmp_path / "2" / "notes").is_dir()


def test_checks_free_space_before_writing(tmp_path, monkeypatch):
    saved(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**18))
    with (
        Checkpoints(tmp_path, 3) as writer,
        pytest.raises(InputError, match="No space left.*newest complete .* step 2"),
    ):
        writer.save(3, state_of(3), meta_of(3))
    assert checkpoint_files.steps(tmp_path) == [1, 2]


def test_empty_folder_has_no_checkpoint(tmp_path):
    assert newest(tmp_path) == (None, [])


def test_two_runs_in_a_folder_without_locks(tmp_path, monkeypatch, capsys):
    """The run that started last continues; the other one stops writing checkpoints and metrics lines."""
    with (
        only_run_in(tmp_path),
        pytest.raises(InputError, match="another process is training in"),
        only_run_in(tmp_path),
    ):
        pass

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(address.fcntl, "flock", no_locks)
    with only_run_in(tmp_path), Checkpoints(tmp_path, 3) as writer:
        assert "does not support locks (No locks available)" in capsys.readouterr().out
        writer.save(1, state_of(1), meta_of(1))
        (tmp_path / ".lock").write_text("process 7 on host elsewhere, 1")  # as another run would write it
        sentence = "another run .process 7 on host elsewhere. has started in"
        with pytest.raises(InputError, match=sentence):
            writer.save(2, state_of(2), meta_of(2))
        with pytest.raises(InputError, match=sentence):
            writer.save_best(2, state_of(2).params, meta_of(2))
        line = SimpleNamespace(path=tmp_path / "metrics.jsonl", task=SimpleNamespace(steps_per_epoch=1))
        with pytest.raises(InputError, match=sentence):
            Metrics.write(line, 2, {})
    assert checkpoint_files.steps(tmp_path) == [1] and not (tmp_path / BEST).exists()
    assert (tmp_path / ".lock").read_text() == "process 7 on host elsewhere, 1"
