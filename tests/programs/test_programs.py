"""Runs the programs as a user does: a few real steps, and invalid input, which causes a one-line error and exit code 2.

Training and one invalid command per program run in separate processes; the rest runs in this one, which has 8 devices.
"""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from cpu_devices import of_training
from made_coco import box, make_coco
from reference_pack import ROOT

from yolos_jax.config.recipes import DETECTION, SETTINGS
from yolos_jax.distributed.mesh import data_mesh
from yolos_jax.errors import InputError
from yolos_jax.programs.command_line import load_recipe
from yolos_jax.tasks.pictures import curves
from yolos_jax.training import run as training_run

IMAGES = [(64, 48)] * 16
MICRO = [
    "--config=configs/yolos_ti.py",
    *(f"--config.model.{k}={v}" for k, v in {"width": 12, "depth": 2, "heads": 2, "det_tokens": 6}.items()),
    *(f"--config.model.{k}={v}" for k, v in {"num_classes": 10, "init_pe_size": "(64, 64)"}.items()),
    *(f"--config.data.{k}={v}" for k, v in {"short_side": 48, "max_side": 96, "buckets": 1, "scales": "(48,)"}.items()),
    "--config.matcher=device",  # its compiled programs are cached
    "--config.data.workers=0",  # each worker starts a process that imports grain
    "--config.train.batch_size=8",
    "--config.train.images_per_replica=1",
    "--config.train.epochs=1",
    "--config.eval.batch_size=8",
    "--config.train.curves=False",
]


@pytest.fixture(scope="module")
def run():
    """Runs a program from the repository's root on one CPU device, in a separate process."""

    def run(*args):
        return subprocess.run(
            [sys.executable, *map(str, args)], cwd=ROOT, env=of_training(), capture_output=True, text=True, timeout=300
        )

    return run


def refused(result, *words):
    assert result.returncode == 2, result.stderr[-2000:]
    assert "Traceback" not in result.stderr and "Traceback" not in result.stdout
    (sentence,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in sentence, sentence


@pytest.fixture(scope="module")
def trained(tmp_path_factory, run):
    """A folder with a data set that has a damaged training image, and a checkpoint after two training steps."""
    folder = tmp_path_factory.mktemp("trained")
    root = make_coco(make_coco(folder / "coco", IMAGES), IMAGES, "val2017")
    path = root / "train2017" / "2.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    command = ["train.py", *MICRO, f"--config.data.root={root}", f"--workdir={folder / 'run'}"]
    more = {"train.log_every": 1, "data.workers": 1, "data.on_bad_image": "skip"}
    done = run(*command, *(f"--config.{key}={value}" for key, value in more.items()))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "16 images" in done.stdout and "saved the checkpoint for step 2" in done.stdout
    assert "1 image skipped" in done.stdout and "2.jpg" in done.stdout
    return folder


def assert_drawn(figure, lines):
    """Checks that the curves of a figure have the values of these lines of `metrics.jsonl`."""
    keys = {"AP": "val/AP", "AP50": "val/AP50", "learning rate": "learning_rate", "images/s": "images_per_second"}
    keys["validation"] = "val/loss"
    drawn = {curve.get_label(): curve.get_xydata().tolist() for axis in figure.axes for curve in axis.lines}
    # Labels with a leading underscore are the markers of the best values.
    drawn = {label: points for label, points in drawn.items() if not label.startswith("_")}
    assert sorted(drawn) == sorted([*keys, "total", "ce", "bbox", "giou"])
    for label, points in drawn.items():
        key = keys.get(label, label)
        assert points == [[line["step"], line[key]] for line in lines if key in line] and points, label


def test_training_writes_metrics_and_resumes_only_the_same_run(trained, call, monkeypatch):
    lines = [json.loads(line) for line in (trained / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 2] and "val/AP50" in lines[-1]
    assert all(np.isfinite(list(line.values())).all() for line in lines)
    assert list((trained / "run" / "tensorboard").glob("events.*"))
    command = ["train.py", *MICRO, f"--config.data.root={trained / 'coco'}", f"--workdir={trained / 'run'}"]
    figures, save = [], curves.save_figure
    monkeypatch.setattr(curves, "save_figure", lambda figure, *to: (figures.append(figure), save(figure, *to)))
    again = call(*command, "--config.train.curves=True")
    assert again.returncode == 0 and "the checkpoint for step 2" in again.stdout
    assert (trained / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert_drawn(figures[-1], lines)
    refused(call(*command, "--config.seed=3"), "seed 0 vs. 3", "--accept_differences")
    done = call(*command, "--config.seed=3", "--accept_differences")
    assert done.returncode == 0 and "accepted difference: seed 0 vs. 3" in done.stdout


def test_evaluation_writes_results_and_never_overwrites(trained, tmp_path, call):
    command = ["eval.py", *MICRO, f"--config.data.root={trained / 'coco'}", f"--checkpoint={trained / 'run'}"]
    done = call(*command, "--plots", "--threshold=0.1")
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((trained / "run" / "eval-2" / "plots" / "summary.json").read_text())
    assert summary["threshold"] == 0.1 and "expected calibration error" in done.stdout
    metrics = json.loads((trained / "run" / "eval-2" / "metrics.json").read_text())
    results = json.loads((trained / "run" / "eval-2" / "results.json").read_text())
    assert metrics["images"] == 16 and len(results) == 16 * 6
    assert f"AP50  {metrics['AP50']:.4f}" in done.stdout and summary["AP50"] == pytest.approx(metrics["AP50"])
    refused(call(*command), "earlier evaluation", "--overwrite")
    refused(call(*command, f"--out={tmp_path}", "--threshold=2"), "--threshold is 2")
    refused(call(*command, "--config.model.width=24", f"--out={tmp_path}"), "width 12 vs. 24")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"--config.data.root": "/nowhere"}, ["/nowhere does not exist"]),
        ({"--config.data.train_split": "gone"}, ["gone does not exist"]),
        (
            {"--config.train.batch_size": 8, "--config.train.images_per_replica": 3},
            ["multiple of 24", "images_per_replica 3"],
        ),
        ({"--config.train.batch_size": 24}, ["16 training images do not fill one batch of 24"]),
        ({"--config.train.accumulate": 4}, ["multiple of 32", "train.accumulate 4"]),
        ({"--config.train.ema": 1.5}, ["train.ema is 1.5"]),
        (
            {"--config.train.patience": 3, "--config.eval.every_epochs": 0},
            ["train.patience 3 needs evaluations, but eval.every_epochs is 0", "--config.train.patience=0"],
        ),
        ({"--config.optimizer.warmup_steps": 1}, ["optimizer.warmup_steps needs optimizer.schedule=step"]),
        ({"--config.data.augment": "heavy"}, ["data.augment", "none, light, strong, aerial"]),
        ({"--config.loss.class_weight": "1,2"}, ["loss.class_weight has 2 number"]),
        ({"--config.data.scales": "(8,)"}, ["data.scales", "at least one patch (16"]),
        ({"--config.data.flip": 1.5}, ["data.flip is 1.5", "probability"]),
        ({"--config.data.crop_range": "(600, 384)"}, ["data.crop_range"]),
        ({"--config.data.scales": "(2000,)", "--config.data.max_side": 0}, ["model.max_side"]),
        ({"--config.data.categories": "odd"}, ["data.categories is 'odd'"]),
        ({"--config.optimizer.schedule": "never"}, ["optimizer.schedule", "epoch, step"]),
        (
            {"--config.optimizer.schedule": "step", "--config.optimizer.warmup_epochs": 1},
            ["a warm-up of 2 steps", "run of 2"],
        ),
        ({"--config.model.compute_dtype": "float16"}, ["compute_dtype"]),
        ({"--config.eval.batch_size": 3, "--config.data.val_split": "gone"}, ["gone does not exist"]),
        ({"--config.matcher": "magic"}, ["choose one of host, device"]),
        ({"--config.precision": "half"}, ["choose one of"]),
        ({"--config.train.epochs": 0}, ["train.epochs is 0"]),
        ({"--config.model.init_pe_size": "(a,b)"}, ["init_pe_size"]),
        ({"--workdir": "README.md/w"}, ["README.md/w cannot be written"]),
        ({"--config.init": "/nowhere"}, ["/nowhere"]),
        ({"--config.modle.width": 3}, ["no config.modle.width", "config.model.width? (see --help)"]),
        ({"--config.train.learning_rate": 1e-4}, ["config.optimizer.learning_rate?"]),
        ({"--config.optimizer.name": "sgd"}, ["optimizer.name is 'sgd'; choose one of adamw"]),
        ({"--config.data.root": "a\nb"}, ["data.root is 'a\\nb'; it must be one line of UTF-8 text"]),
    ],
    ids=lambda v: next(iter(v)).rsplit(".", 1)[-1] if isinstance(v, dict) else "",
)
def test_invalid_settings_in_training(trained, tmp_path, call, change, words):
    flags = [f"{k}={v}" for k, v in change.items()]
    result = call("train.py", *MICRO, f"--config.data.root={trained / 'coco'}", f"--workdir={tmp_path / 'w'}", *flags)
    refused(result, *words)
    assert not list((tmp_path).glob("w/[0-9]*"))


def test_non_finite_values_in_training(trained, tmp_path, call, monkeypatch):
    monkeypatch.setattr(training_run, "data_mesh", lambda _: data_mesh(jax.devices()[:1]))
    command = ["train.py", *MICRO, f"--config.data.root={trained / 'coco'}", f"--workdir={tmp_path / 'w'}"]
    changes = {"optimizer.learning_rate": 1e30, "matcher": "host", "eval.every_epochs": 0, "data.on_bad_image": "skip"}
    result = call(*command, *(f"--config.{key}={value}" for key, value in changes.items()))
    refused(result, "image id", "not finite", "This step is not saved")
    assert not list((tmp_path).glob("w/[0-9]*"))


def test_missing_and_wrong_flags(tmp_path, run, call):
    refused(call("train.py", "--config=configs/absent.py", f"--workdir={tmp_path}"), "absent.py does not exist")
    refused(call("train.py", f"--workdir={tmp_path}"), "required: --config")
    refused(call("eval.py", "--config=configs/yolos_s.py"), "required: --checkpoint")
    checkpoint = f"--checkpoint={tmp_path}"
    refused(call("eval.py", "--config=configs/yolos_s.py", checkpoint, "more"), "unexpected argument 'more'")
    refused(call("eval.py", "--config=yolos_s", "--check=x", checkpoint), "unexpected argument '--check=x'")
    refused(call("train.py", "--config=yolos_s", f"--workdir={tmp_path}", "--config.seed"), "expected one argument")
    for program, place in ("train.py", "workdir"), ("eval.py", "checkpoint"):
        refused(run(program, "--config=yolos_s", f"--{place}={tmp_path}", "--config.seed=-1"), "seed is -1; it must be")


def test_settings_as_separate_arguments(trained, tmp_path, call):
    command = ["train.py", *MICRO, "--workdir", tmp_path / "w", "--config.data.root", trained / "coco"]
    command += ["--config.data.train_images", tmp_path / "absent", "--config.data.scales", "48,"]
    refused(call(*command), "the image folder", "absent does not exist")


@pytest.mark.parametrize("program", ["train.py", "eval.py", "check_data"])
def test_help_lists_every_setting(call, program):
    done = call(program, "--help")
    text = " ".join(done.stdout.split())
    assert done.returncode == 0 and "--config RECIPE" in text
    for key, found in SETTINGS[DETECTION].items():
        value = "[VALUE]" if found.type is bool else "VALUE"
        assert f"--config.{key} {value}" in text and f"(default {found.default!r})" in text


def test_help_shows_the_recipes_values(call):
    text = " ".join(call("train.py", "--config", "yolos_s_voc", "--help").stdout.split())
    assert "(default 'data/VOCdevkit')" in text and "(default (384, 512))" in text


def test_recipe_code_runs_once(call, tmp_path):
    (tmp_path / "mine.py").write_text(
        "print('here')\nfrom yolos_jax.config.recipes import detection_recipe as get_config\n"
    )
    done = call(
        "train.py", "--config", tmp_path / "mine.py", "--workdir", tmp_path, "--config.data.root", tmp_path / "no"
    )
    assert done.stdout.count("here") == 1 and "no does not exist" in done.stderr


def test_recipes_are_listed_with_descriptions(call):
    done = call("train.py", "--list")
    listed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert done.returncode == 0 and {"yolos_ti", "finetune_custom", "deit_s", "yolos_s_compound"} <= listed.keys()
    assert listed["yolos_s"].startswith("YOLOS-S: 30.7 M parameters")


@pytest.mark.parametrize(
    "content, words",
    [
        ("1 / 0", r"cannot be run \(ZeroDivisionError: division by zero\)"),
        ("import sys\nsys.exit(3)", r"\(SystemExit: 3\)"),
        ("def get_config(:", "SyntaxError"),
        ("raise KeyError('a\\nb')", "KeyError"),
        ("", r"recipe\.py has no function get_config\(\)"),
        ("def get_config():\n    return 3", "returned int, not ConfigDict"),
        ("def get_config(text):\n    return 3", "TypeError: .*text"),
        (
            "from yolos_jax.config.recipes import detection_recipe as of\nget_config = lambda: of('huge')",
            "no variant 'huge'",
        ),
    ],
)
def test_invalid_recipe_files(tmp_path, content, words):
    (tmp_path / "recipe.py").write_text(content + "\n")
    with pytest.raises(InputError, match=words) as refusal:
        load_recipe(str(tmp_path / "recipe.py"))
    assert len(str(refusal.value).splitlines()) == 1


def test_recipes_by_name_and_with_an_argument(tmp_path):
    assert load_recipe("yolos_b").model.width == 768
    (tmp_path / "mine.py").write_text(
        "import dataclasses\nfrom yolos_jax.config import recipes\n"
        "@dataclasses.dataclass\nclass Any:\n    a: 'int' = 1\n"
        "def get_config(variant='ti'):\n    return recipes.detection_recipe(variant)\n"
    )
    assert [load_recipe(f"{tmp_path}/mine.py{end}").model.width for end in ("", ":s", ":b")] == [192, 384, 768]
    for absent in ("yolos_x", str(tmp_path), "a\0b", "n" * 300, "", ":s"):
        with pytest.raises(InputError, match=r"does not exist|cannot be accessed"):
            load_recipe(absent)


def test_bad_data_in_training(tmp_path, call):
    root = make_coco(tmp_path / "a", [(64, 48)] * 2, annotations=[box(5, 1, [1, 1, float("nan"), 4])])
    refused(call("train.py", *MICRO, f"--config.data.root={root}", f"--workdir={tmp_path / 'w'}"), "annotation id 5")
