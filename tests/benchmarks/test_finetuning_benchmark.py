"""Tests of benchmarks.finetuning: data, rows, moving averages, a run, and resuming."""

import argparse
import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from benchmarks import coloured_digits, finetuning, finetuning_rows, run_queue
from benchmarks.finetuning_rows import ALL, CONSTANT, OLD, settings_of
from yolos_jax.config.reader import read_recipe
from yolos_jax.config.recipes import DetectionConfig
from yolos_jax.errors import InputError
from yolos_jax.model.config import YolosConfig
from yolos_jax.training import run as training_run

MICRO = YolosConfig(width=16, depth=2, heads=2, patch_size=8, det_tokens=6, num_classes=10, init_pe_size=(64, 64))


def test_coloured_digits(tmp_path):
    """The same arguments produce the same files; digits are visible, and boxes are in the scene without overlap."""
    for name in ("one", "other"):
        coloured_digits.write(tmp_path / name, 4, 2)
    read = [(tmp_path / name / "annotations" / "instances_train.json").read_text() for name in ("one", "other")]
    assert read[0] == read[1]
    content = json.loads(read[0])
    assert len(content["images"]) == 4 and len(content["categories"]) == 10
    for image in content["images"]:
        files = [tmp_path / name / "train" / image["file_name"] for name in ("one", "other")]
        assert files[0].read_bytes() == files[1].read_bytes()
        luma = np.asarray(Image.open(files[0]).convert("L"), np.float64)
        boxes = [a["bbox"] for a in content["annotations"] if a["image_id"] == image["id"]]
        taken = np.zeros(luma.shape, int)
        for x, y, w, h in boxes:
            assert min(x, y) >= 0 and max(x + w, y + h) <= coloured_digits.SIDE
            taken[y : y + h, x : x + w] += 1
        assert boxes and taken.max() == 1
        ground = np.median(luma[taken == 0])
        for x, y, w, h in boxes:
            assert np.abs(luma[y : y + h, x : x + w] - ground).max() > coloured_digits.CONTRAST / 2


def test_rows_are_recipes():
    """The first row has the settings of the recipe at commit 27265a3; the last row has those of the current recipe."""
    table = {row: settings_of(row, "digits", MICRO) for row in finetuning.ROWS}
    old, today = (read_recipe(finetuning.recipe_from(table[row]), DetectionConfig) for row in (OLD, ALL))
    assert (old.train.epochs, old.train.ema, old.train.least_steps, old.train.patience) == (50, 0.999, 0, 0)
    assert (old.eval.every_epochs, old.optimizer.warmup_epochs, old.data.augment) == (5, 1.0, "none")
    recipe = finetuning.recipe_of("finetune_custom")
    recipe.init = "from_nothing"
    shipped = read_recipe(recipe, DetectionConfig)
    assert (today.train.least_steps, today.train.patience) == (shipped.train.least_steps, shipped.train.patience)
    assert today.eval.least_steps == shipped.eval.least_steps and today.model.width == MICRO.width
    assert [row for row, settings in table.items() if settings[CONSTANT]] == [OLD, "+steps", "+augment", "+patience"]
    assert settings_of("all,data.augment=strong", "bccd", MICRO)["data.augment"] == "strong"
    for row, words in (("+speed", "no row [+]speed"), ("all,train.speed=1", "setting train.speed, which this version")):
        with pytest.raises(InputError, match=words):
            settings_of(row, "digits", MICRO)


def test_average_with_and_without_warmup(monkeypatch):
    """With a constant decay of 0.9, an update from 0 towards 1 yields 0.1; with warm-up, the first yields over 0.5."""
    assert finetuning_rows.average_warms_up()
    monkeypatch.setattr(training_run, "make_average", training_run.make_average)  # restored at the end
    finetuning_rows.with_constant_average()
    zero, one = {"x": jnp.zeros(())}, {"x": jnp.ones(())}
    average = training_run.make_average(0.9, None)
    assert float(average(zero, one, jnp.int32(1))["x"]) == pytest.approx(0.1)
    assert float(average(zero, one)["x"]) == pytest.approx(0.1)


def test_run_and_table(tmp_path, capsys):
    """Trains a micro model on 8 of 16 scenes, and compares the results with the log."""
    flags = argparse.Namespace(out=tmp_path, bccd=None)
    (tmp_path / "digits").mkdir()
    coloured_digits.write(tmp_path / "digits", 16, 4)
    (tmp_path / "digits" / "made").touch()
    root = finetuning.data_folder("digits", flags)
    row = "all,train.epochs=1,train.least_steps=1,optimizer.warmup_steps=0,eval.batch_size=4"
    own = {"data.root": str(root), "data.train_annotations": str(finetuning.subset(root, 8, 0)), "init": "from_nothing"}
    settings = settings_of(row, "digits", MICRO) | own
    run = {"name": "a", "data": "digits", "images": 8, "start": "nothing", "row": row, "seed": 0, "settings": settings}
    finetuning.one(json.loads(json.dumps(run | {"workdir": str(tmp_path / "run"), "core": None})))
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert found["steps"] == 1 and [found["AP"]] == [line["val/AP"] for line in lines if "val/AP" in line]
    assert [found["raw AP"]] == [line["val_raw/AP"] for line in lines if "val_raw/AP" in line]
    results = [{"run": run | {"seed": seed}} | found | {"AP": ap} for seed, ap in enumerate((0.2, 0.4))]
    (shown,) = finetuning.table(results)
    assert shown["AP"] == "0.300 (0.200 to 0.400)" and shown["seeds"] == "2" and shown["images"] == "8"


def test_results_of_last_and_best_evaluation():
    lines = [{"step": 5, "val/AP": 0.5, "val/AP50": 0.6}, {"step": 9, "val/AP": 0.4, "val/AP50": 0.7}, {"step": 9}]
    found = finetuning.numbers_of(lines, 9)
    assert (found["AP"], found["AP50"], found["best AP"], found["best AP50"], found["best step"]) == (
        0.4, 0.7, 0.5, 0.6, 5,
    )  # fmt: skip
    with pytest.raises(InputError, match="last evaluation is at step 9"):
        finetuning.numbers_of(lines, 10)


def test_queue_resumes(tmp_path, monkeypatch):
    """Existing results are kept, failed runs are reported at the end, and a truncated line is removed."""
    did = []

    def process(module, run, core, log):
        did.append(run["name"])
        return None if run["name"] == "bad" else {"AP": run["seed"] / 10}

    monkeypatch.setattr(run_queue, "_process", process)
    runs = [{"name": name, "seed": seed, "sizes": (1, 2)} for seed, name in enumerate(("one", "bad", "two"))]
    with pytest.raises(InputError, match=r"1 run failed: bad; .*logs"):
        run_queue.run_all("none", runs, tmp_path, 1)
    assert did == ["one", "bad", "two"]
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"run": {"na')
    found = run_queue.run_all("none", [runs[0], runs[2], {"name": "three", "seed": 3}], tmp_path, 2)
    assert did[3:] == ["three"] and [each["AP"] for each in found] == [0.0, 0.2, 0.3]
