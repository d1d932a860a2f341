"""Checkpoints of a run: what comes back, what stays, and what becomes of damaged ones."""

import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from micro_run import assert_equal_trees
from tiny_weights import TINY, random_params

from yolos_jax import checkpoints
from yolos_jax.checkpoints import Meta
from yolos_jax.errors import InputError
from yolos_jax.training.keeper import BEST, Keeper, best_so_far, newest, put_aside_best
from yolos_jax.training.optimizer import adamw
from yolos_jax.training.step import data_mesh, initial_state

OPTIMIZER = adamw(lambda step: 1e-3)


def state_of(step: int, ema: bool = False):
    """A state in which no two numbers are likely equal, of optimizer and average too."""
    state = initial_state(random_params(TINY, step), OPTIMIZER, data_mesh(jax.devices()[:1]), ema)
    rng = np.random.default_rng(step)

    def fill(x):
        drawn = rng.standard_normal(x.shape) if x.dtype == jnp.float32 else rng.integers(1, 99, x.shape)
        return jnp.asarray(drawn, x.dtype)

    return jax.tree.map(fill, state)._replace(step=jnp.int32(step))


def meta_of(step: int, **extra) -> Meta:
    return Meta(TINY, {1: "one"}, step, {"config": {"seed": 0}} | extra, (7, 1, 9, 4))


def saved(folder, steps=(1, 2), keep=3):
    with Keeper(folder, keep) as keeper:
        for step in steps:
            keeper.save(step, state_of(step), meta_of(step))
    return folder


def nothing(meta):
    pass


def same_arrays(state, step, ema=False):
    assert_equal_trees(jax.tree.map(np.asarray, state), jax.tree.map(np.asarray, state_of(step, ema)))


@pytest.mark.parametrize("ema", [False, True])
def test_everything_comes_back_bit_equal(tmp_path, ema):
    with Keeper(tmp_path, 2) as keeper:
        keeper.save(3, state_of(3, ema), meta_of(3))
    state, meta, told = newest(tmp_path, OPTIMIZER, ema, nothing)
    same_arrays(state, 3, ema)
    assert meta == meta_of(3) and told == []
    loaded, _ = checkpoints.load(tmp_path)
    assert_equal_trees(loaded, jax.tree.map(np.asarray, state_of(3, ema).ema if ema else state_of(3).params))


def test_a_moving_average_can_begin_later(tmp_path):
    state, _, _ = newest(saved(tmp_path), OPTIMIZER, True, nothing)
    assert_equal_trees(state.ema, state.params)


def test_the_latest_stay_and_the_best_apart(tmp_path):
    with Keeper(tmp_path, 2) as keeper:
        for step in (1, 2, 3, 4):
            keeper.save(step, state_of(step), meta_of(step))
            if step in (1, 2):
                keeper.save_best(step, state_of(step).params, meta_of(step, AP=0.1 * step))
    assert checkpoints.steps(tmp_path) == [3, 4] and checkpoints.steps(tmp_path / BEST) == [2]
    assert best_so_far(tmp_path) == (2, pytest.approx(0.2))
    assert_equal_trees(checkpoints.load(tmp_path / BEST)[0], random_like(2))


def random_like(step):
    return jax.tree.map(np.asarray, state_of(step).params)


def files(folder):
    return sorted(os.path.relpath(os.path.join(root, f), folder) for root, _, names in os.walk(folder) for f in names)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax, about what it cannot read
@pytest.mark.parametrize("how", ["half", "empty", "gone"])
def test_whatever_file_is_damaged_the_run_goes_on_from_whole_numbers(tmp_path, how):
    """Every file of the newest step in turn: either it is not needed, or the step before is taken and said so."""
    original, fell_back = saved(tmp_path / "whole"), 0
    # What a process wrote before its parts were merged is not read again: one way of damage is enough for it.
    for name in (f for f in files(original / "2") if how == "gone" or "ocdbt.process" not in f):
        folder = shutil.copytree(original, tmp_path / "copy")
        path = folder / "2" / name
        if how == "gone":
            path.unlink()
        else:
            os.truncate(path, path.stat().st_size // 2 if how == "half" else 0)
        state, meta, told = newest(folder, OPTIMIZER, False, nothing)
        same_arrays(state, meta.step)
        if meta.step == 1:
            fell_back += 1
            assert len(told) == 1 and "moved to damaged-2" in told[0] and (folder / "damaged-2").is_dir()
            with Keeper(folder, 3) as keeper:  # the step can be written again
                keeper.save(2, state_of(2), meta_of(2))
            same_arrays(newest(folder, OPTIMIZER, False, nothing)[0], 2)
        else:
            assert meta.step == 2 and told == []
        shutil.rmtree(folder)
    assert fell_back >= 5  # of parameters and optimizer: the manifest, the data; and the meta


def test_a_half_written_step_is_put_aside(tmp_path):
    saved(tmp_path)
    shutil.rmtree(tmp_path / "2" / "meta")
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()
    state, _, (told,) = newest(tmp_path, OPTIMIZER, False, nothing)
    same_arrays(state, 1)
    assert "is only half written; moved to damaged-2" in told
    with Keeper(tmp_path, 3):
        assert not (tmp_path / "3.orbax-checkpoint-tmp").exists()


def test_no_whole_checkpoint_is_a_sentence_and_nothing_is_lost(tmp_path):
    saved(tmp_path)
    for step in (1, 2):
        (tmp_path / str(step) / "optimizer" / "manifest.ocdbt").write_bytes(b"")
    for _ in range(2):  # whatever the trouble is, a second start must not find an empty folder
        with pytest.raises(InputError, match="2 cannot be read.*1 cannot be read.*left as they are"):
            newest(tmp_path, OPTIMIZER, False, nothing)
    assert checkpoints.steps(tmp_path) == [1, 2]


def test_a_best_checkpoint_is_no_run_and_stays(tmp_path):
    with Keeper(tmp_path, 2) as keeper:
        keeper.save_best(2, state_of(2).params, meta_of(2, AP=0.2))
    with pytest.raises(InputError, match="holds weights .*--config.init="):
        newest(tmp_path / BEST, OPTIMIZER, False, nothing)
    assert best_so_far(tmp_path)[0] == 2
    (told,) = put_aside_best(tmp_path, 1)
    assert "damaged-2" in told and best_so_far(tmp_path) is None and put_aside_best(tmp_path, 1) == []


def test_folders_with_numbers_for_names_are_left_alone(tmp_path):
    (tmp_path / "2" / "notes").mkdir(parents=True)
    with pytest.raises(InputError, match="is named like a checkpoint and is none"):
        newest(tmp_path, OPTIMIZER, False, nothing)
    assert (tmp_path / "2" / "notes").is_dir()


def test_no_room_is_noticed_before_writing(tmp_path, monkeypatch):
    saved(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**18))
    with (
        Keeper(tmp_path, 3) as keeper,
        pytest.raises(InputError, match="No space left.*newest whole one there is step 2"),
    ):
        keeper.save(3, state_of(3), meta_of(3))
    assert checkpoints.steps(tmp_path) == [1, 2]
