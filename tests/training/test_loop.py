"""Complete runs: output, checkpoints, resuming and errors."""

import json
import logging
import re
import shutil
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from compiled_once import compiled_once
from made_coco import make_coco
from micro_run import SIZES, assert_equal_trees, lines, micro_config, micro_data, without_key_biases

from yolos_jax.config.recipes import DetectionConfig
from yolos_jax.data.loader import Share
from yolos_jax.distributed.mesh import data_mesh, split_over
from yolos_jax.distributed.processes import Processes
from yolos_jax.errors import InputError
from yolos_jax.model.yolos import build
from yolos_jax.tasks import recipe
from yolos_jax.tasks.base import options_of
from yolos_jax.tasks.detection import DetectionTask, train
from yolos_jax.training import checkpoint_files, run
from yolos_jax.training.compiled_step import BucketedStep, NotFinite, not_finite
from yolos_jax.training.prefetch import Batches
from yolos_jax.training.resume import newest
from yolos_jax.training.saving import Checkpoints
from yolos_jax.training.signals import Signals
from yolos_jax.training.step import LossReport, StepReport
from yolos_jax.weights import checkpoints

ONE = jax.devices()[:1]
OLD_RUN = Path(__file__).parents[1] / "inputs" / "run_27265a3.zip"


def config_of(root, **changes):
    """A recipe with a moving average and a different learning rate at every step."""
    own = {"optimizer.schedule": "step", "optimizer.warmup_epochs": 1, "train.ema": 0.25}
    return micro_config(root, **own | changes)


def arrays_of(folder, step=4):
    """Parameters and their moving average."""
    shapes = checkpoints.load_detector(folder)[0]
    return checkpoint_files.read_arrays(folder, step, params=shapes, ema=shapes)


@pytest.fixture(scope="module", autouse=True)
def programs():
    with compiled_once():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return micro_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A complete run of four steps on one device: (folder, parameters and their moving average)."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(config_of(data), folder, devices=ONE)
    return folder, arrays_of(folder)


def test_resumed_run_matches_an_uninterrupted_one(data, whole, tmp_path, capsys):
    config = config_of(data, **{"train.max_steps": 3})
    assert train(config, tmp_path, devices=ONE).step == 3
    outcome = train(config_of(data), tmp_path, devices=ONE)
    assert outcome.step == 4 and "the checkpoint for step 3" in capsys.readouterr().out
    assert_equal_trees(arrays_of(tmp_path), whole[1])
    a, b = lines(tmp_path), lines(whole[0])
    assert [line["step"] for line in a] == [1, 2, 3, 4]
    assert [line["total"] for line in a] == [line["total"] for line in b]
    again = train(config_of(data), tmp_path, devices=ONE)
    assert again.step == 4 and not again.compiled and "the run is complete" in capsys.readouterr().out


@pytest.mark.parametrize("first, then", [(4, 1), (1, 4)])
def test_resumes_on_a_different_number_of_devices(data, whole, tmp_path, first, then):
    train(config_of(data, **{"train.max_steps": 2}), tmp_path, devices=jax.devices()[:first])
    train(config_of(data), tmp_path, devices=jax.devices()[:then])
    found = without_key_biases(arrays_of(tmp_path))
    assert_equal_trees(found, without_key_biases(whole[1]), atol=1e-5)


def plan_of(config):
    return recipe.plan_of(config, recipe.model_of(config, 10), recipe.source_of(config, "train").examples.sizes)


def sequence(config, devices):
    """Image id, grid size, random numbers and pixel sum of every image in a run, in the order of training."""
    config, mesh = recipe.prepare(config, DetectionConfig), data_mesh(devices)
    task, plan = DetectionTask(config, mesh), plan_of(config)
    found = []
    with Batches(task.batches(0, Share()), split_over(mesh), Processes(), Signals(), False) as batches:
        for batch in batches:
            views = plan.batch(batch.step).views
            numbers = np.concatenate(views.numbers, axis=1).tolist()
            grid, patches = np.asarray(batch.arrays.grid), np.asarray(batch.arrays.patches, np.int64).sum((1, 2))
            found += list(zip(map(task.name_of, batch.indices.tolist()), grid.tolist(), numbers, patches.tolist()))
    assert len(found) == 16
    return found


@pytest.mark.timeout(240)
def test_data_order_depends_only_on_the_seed(data):
    want = sequence(config_of(data), ONE)
    assert sequence(config_of(data, **{"data.workers": 1, "data.ahead": 1}), jax.devices()[:4]) == want
    assert sequence(config_of(data, seed=1), ONE) != want


def test_metrics_lines_average_the_steps_since_the_last_line(data, whole, tmp_path):
    """Losses and norms are averaged; the learning rate is that of the last step."""
    train(config_of(data, **{"train.log_every": 3}), tmp_path, devices=ONE)
    each = [line for line in lines(whole[0]) if "total" in line]
    three, one = (line for line in lines(tmp_path) if "total" in line)
    for name in ("total", "ce", "bbox", "giou", "class_error", "grad_norm"):
        assert three[name] == pytest.approx(np.mean([line[name] for line in each[:3]]), rel=1e-6), name
        assert one[name] == each[3][name]
    assert three["learning_rate"] == each[2]["learning_rate"]


def test_programs_of_later_steps_are_compiled_concurrently(data, tmp_path, capsys):
    """The programs of all buckets start compiling at the first step."""
    config = config_of(data, **{"data.buckets": 2, "train.epochs": 3})
    task = DetectionTask(recipe.prepare(config, DetectionConfig), data_mesh(ONE))
    met = list(dict.fromkeys(task.bucket_of(step) for step in range(6)))
    assert len(met) == 2
    begun = []

    class Counted(BucketedStep):
        def __call__(self, state, batch):
            found = super().__call__(state, batch)
            begun.append(sorted(self._begun))
            return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "BucketedStep", Counted)
        outcome = train(config, tmp_path, devices=ONE)
    assert begun[0] == sorted(met) and list(outcome.compiled) == met
    printed = capsys.readouterr()
    assert f"compiled the step for {met[1]} patches" in printed.out and "(2 of 2 buckets)" in printed.out
    assert f"compiling program 1 of 2, {met[0]} patches" in printed.err


def test_printed_numbers_are_correct(data, tmp_path, capsys, caplog):
    """Compares the number of compilations with JAX's log, and the padding with the batches."""
    config = config_of(data, **{"data.buckets": 2, "train.epochs": 3, "matcher": "host"})
    jax.config.update("jax_log_compiles", True)
    try:
        with caplog.at_level(logging.WARNING, logger="jax"), compiled_once():  # nothing is compiled yet
            outcome = train(config, tmp_path, devices=ONE)
    finally:
        jax.config.update("jax_log_compiles", False)
    compiled = [r for r in caplog.records if re.search(r"Finished XLA compilation of jit\(step\)", r.getMessage())]
    printed = capsys.readouterr().out
    assert len(compiled) == len(outcome.compiled) == len(set(outcome.compiled)) > 1
    assert f"the step was compiled {len(compiled)} time" in printed
    assert printed.count("compiled the step for ") == len(compiled)
    plan = plan_of(recipe.prepare(config, DetectionConfig))
    real = places = 0
    for step in range(6):
        batch = plan.batch(step)
        real += sum(int(w) * int(h) // 256 for w, h in batch.views.size)
        places += 4 * batch.tokens
    assert f"{1 - real / places:.2%} of the patches were padding" in printed
    assert outcome.padding == pytest.approx(1 - real / places)
    first = [plan.batch(step) for step in range(2)]
    share = 1 - sum(int((b.views.size // 16).prod(1).sum()) for b in first) / sum(4 * b.tokens for b in first)
    assert f"{share:.2%} of the first epoch's patches are padding" in printed
    assert ", ".join(map(str, plan.edges)) in printed
    logged = [line["padding"] for line in lines(tmp_path)]
    assert np.average(logged, weights=[4 * plan.batch(s).tokens for s in range(6)]) == pytest.approx(1 - real / places)


def test_evaluations_and_best_checkpoint(data, tmp_path, capsys):
    config = config_of(data, **{"eval.every_epochs": 1, "checkpoint.keep": 1})
    train(config, tmp_path, devices=ONE)
    printed = capsys.readouterr().out
    found = {line["step"]: line["val/AP"] for line in lines(tmp_path) if "val/AP" in line}
    assert list(found) == [2, 4] and checkpoint_files.steps(tmp_path) == [4]
    best = max(found, key=lambda step: (found[step], -step))
    assert checkpoint_files.steps(tmp_path / "best") == [best] and f"at step {best}" in printed
    _, meta = checkpoints.load_detector(tmp_path / "best")
    assert meta.extra["AP"] == found[best] and [e["step"] for e in meta.extra["evaluations"]][-1] == best
    shutil.rmtree(tmp_path / "best")  # as after a kill between the last checkpoint and its evaluation
    train(config, tmp_path, devices=ONE)
    again = {line["step"]: line["val/AP"] for line in lines(tmp_path) if "val/AP" in line}
    # The line in metrics.jsonl shows that the evaluation is complete, so it is not repeated.
    assert again == found and "step 4: AP" not in capsys.readouterr().out
    kept = [json.dumps(line) + "\n" for line in lines(tmp_path) if "val/AP" not in line]
    (tmp_path / "metrics.jsonl").write_text("".join(kept))
    train(config, tmp_path, devices=ONE)
    assert {n["step"]: n["val/AP"] for n in lines(tmp_path) if "val/AP" in n} == {4: found[4]}
    assert "step 4: AP" in capsys.readouterr().out and checkpoint_files.steps(tmp_path / "best") == [4]


def test_loads_the_moving_average(data, whole):
    """Compares the loaded average with one computed from the checkpoints of all steps."""
    config = config_of(data)
    average = build(recipe.model_of(config, 10), config.seed, config.init)[1]
    for step, decay in enumerate((2 / 11, 3 / 12, 0.25, 0.25), 1):  # 4 / 13 and 5 / 14 exceed train.ema
        params = arrays_of(whole[0], step)["params"]
        average = jax.tree.map(lambda a, p, decay=decay: decay * a + (1 - decay) * p, average, params)
    assert_equal_trees(checkpoints.load_detector(whole[0])[0], average, atol=1e-6)
    assert_equal_trees(whole[1]["ema"], checkpoints.load_detector(whole[0])[0])


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"seed": 1}, "seed 0 vs. 1"),
        ({"optimizer.weight_decay": 0.1}, r"optimizer.weight_decay 0.0001 vs. 0.1"),
        ({"data.scales": (32,)}, r"data.scales \[32, 48\] vs. \[32\]"),
        (
            {"train.epochs": 3, "model.compute_dtype": "bfloat16"},
            "compute_dtype float32 vs. bfloat16; train.epochs",
        ),
        ({"model.det_tokens": 7}, "a different model: det_tokens 6 vs. 7"),
    ],
)
def test_rejects_resuming_with_different_settings(data, whole, changes, words):
    with pytest.raises(InputError, match=words):
        train(config_of(data, **changes), whole[0], devices=ONE)


def test_accepts_differences_on_request_and_ignores_some(data, whole, tmp_path, capsys):
    shutil.copytree(whole[0], tmp_path / "run")
    free = {"train.log_every": 7, "data.workers": 1, "matcher": "host", "model.remat": True, "train.accumulate": 2}
    train(config_of(data, **free), tmp_path / "run", devices=ONE)
    train(config_of(data, seed=1), tmp_path / "run", accept_differences=True, devices=ONE)
    assert "accepted difference: seed 0 vs. 1" in capsys.readouterr().out


def test_detects_changed_annotations(whole, tmp_path):
    root = make_coco(tmp_path, SIZES)
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][3]["bbox"][0] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="training annotations .*fingerprint"):
        train(config_of(root), whole[0], devices=ONE)


def test_non_finite_values_stop_the_run_and_keep_checkpoints(data, whole, tmp_path):
    """The last checkpoint of this diverged run is finite, but the costs computed from it are not."""
    config = config_of(data)
    task = DetectionTask(recipe.prepare(config, DetectionConfig), data_mesh(ONE))
    state = newest(whole[0], task, options_of(config))[0]
    state = state._replace(step=np.int32(2), params=jax.tree.map(lambda x: 1e30 * x, state.params))
    with Checkpoints(tmp_path, 10) as writer:
        writer.save(2, state, task.identity().meta(2))
    with pytest.raises(NotFinite, match="step 3: the .* of image id .* are not finite"):
        train(config, tmp_path, devices=ONE)
    assert checkpoint_files.steps(tmp_path) == [2]
    assert_equal_trees(arrays_of(tmp_path, 2), {"params": state.params, "ema": state.ema})


def test_unreadable_image_stops_the_run_or_is_replaced(tmp_path, capsys):
    root = micro_data(tmp_path / "data")
    config = config_of(root)
    plan = plan_of(recipe.prepare(config, DetectionConfig))
    first, *_, last = (plan.batch(step).indices.tolist() for step in range(4))
    number = 1 + next(i for i in last if i not in first)
    path = root / "train2017" / f"{number}.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match=rf"{number}\.jpg.*on_bad_image=skip") as error:
        train(config, tmp_path / "run", devices=ONE)
    at = (checkpoint_files.steps(tmp_path / "run") or [0])[-1]
    assert (f"step {at} is saved" if at else "nothing to save yet") in str(error.value)
    config.data.on_bad_image = "skip"
    assert train(config, tmp_path / "run", devices=ONE).step == 4
    printed = capsys.readouterr().out
    assert "replaced by another image" in printed and f"{number}.jpg" in printed
    assert re.search(r"[1-9]\d* images? skipped", printed)


def test_error_for_a_full_disk(data, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(
        InputError, match="step 1 could not be written .*No space left.*there is no complete checkpoint yet"
    ):
        train(config_of(data), tmp_path / "run", devices=ONE)


def test_schedule_by_step(whole):
    rates = [line["learning_rate"] for line in lines(whole[0])]
    cosine = [1e-7 + (1e-3 - 1e-7) * (1 + np.cos(np.pi * k / 2)) / 2 for k in (0, 1)]
    np.testing.assert_allclose(rates, [1e-6, (1e-6 + 1e-3) / 2, *cosine], rtol=1e-5)


NAMES = [f"image id {n}" for n in (11, 22, 33, 44)]


def report(finite, applied):
    return StepReport(LossReport({"total": np.float32(1)}, np.array(finite), {}), np.float32(1.5), np.bool_(applied))


def test_error_lists_only_the_images_with_non_finite_costs():
    error = not_finite(report([True, False, True, True], False), 7, NAMES, "matching costs")
    assert "step 7: the matching costs of image id 22 are not finite " in str(error)


def test_error_for_a_non_finite_loss_lists_the_whole_batch():
    names = [*NAMES[:2], None, NAMES[3]]  # an empty slot
    error = not_finite(report([True, True, False, True], False), 7, names, "matching costs")
    assert "loss, gradients or updated parameters of image id 11, image id 22, image id 44 are" in str(error)


def test_rejects_converted_weights_as_a_run(data, whole, tmp_path):
    params, meta = checkpoints.load_detector(whole[0])
    checkpoints.save(tmp_path / "w", 0, params, checkpoint_files.Meta(meta.model, {}))
    with pytest.raises(InputError, match=r"weights \(converted ones"):
        train(config_of(data), tmp_path / "w", devices=ONE)


def test_resumes_a_run_from_an_earlier_commit(data, tmp_path, capsys):
    """Commit 27265a3 wrote the first two of four steps; its moving average had no warm-up, unlike the current one."""
    with zipfile.ZipFile(OLD_RUN) as archive:
        archive.extractall(tmp_path / "run")
    average = arrays_of(tmp_path / "run", 2)["ema"]
    config = micro_config(data, **{"train.ema": 0.5})
    assert train(config, tmp_path / "run", devices=ONE).step == 4
    assert "had no warm-up until step 2; from now on it is min" in capsys.readouterr().out
    train(config, tmp_path / "whole", devices=ONE)
    found, want = (without_key_biases(arrays_of(tmp_path / name)["params"]) for name in ("run", "whole"))
    assert_equal_trees(found, want, atol=1e-5)  # the first two steps were compiled with a different code generator
    for step, decay in ((3, 4 / 13), (4, 5 / 14)):
        params = arrays_of(tmp_path / "run", step)["params"]
        average = jax.tree.map(lambda a, p, decay=decay: decay * a + (1 - decay) * p, average, params)
    assert_equal_trees(arrays_of(tmp_path / "run")["ema"], average, atol=1e-6)


def test_checkpoint_with_an_older_data_order(data, whole, tmp_path, capsys):
    """The older version drew different random views, so the run resumes only if that difference is accepted."""
    shutil.copytree(whole[0], tmp_path / "run")
    meta = tmp_path / "run" / "4" / "meta" / "metadata"
    content = json.loads(meta.read_text())
    content["extra"]["order"] = 1
    meta.write_text(json.dumps(content))
    with pytest.raises(InputError, match="the order and augmentation of images"):
        train(config_of(data), tmp_path / "run", devices=ONE)
    assert train(config_of(data), tmp_path / "run", accept_differences=True, devices=ONE).step == 4


def test_drops_and_counts_damaged_metrics_lines(data, tmp_path, capsys):
    """Lines that are not UTF-8, not JSON, or have no step do not prevent resuming."""
    train(config_of(data, **{"train.max_steps": 3}), tmp_path, devices=ONE)
    path = tmp_path / "metrics.jsonl"
    good = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"\xff\xfe\n" + good[0] + b'{"loss": 1}\n[1, 2]\n' + good[1] + good[2] + good[2][:20])
    assert train(config_of(data), tmp_path, devices=ONE).step == 4
    assert "3 damaged lines from" in capsys.readouterr().out
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    assert path.read_bytes().splitlines(keepends=True)[:3] == good
