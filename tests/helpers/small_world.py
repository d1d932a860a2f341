"""Small stand-ins for all files and models that commands in the documentation use."""

import dataclasses
import functools
import importlib
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from huggingface_hub import constants
from made_coco import make_coco
from made_tfds import CATEGORIES
from micro_run import SIZES
from PIL import Image
from tiny_weights import deit_state, in_hub_cache, random_params, write

from yolos_jax.config import recipes
from yolos_jax.config.reader import read_any, to_json
from yolos_jax.datasets.coco_names import COCO_NAMES
from yolos_jax.datasets.tfds.build import build_records
from yolos_jax.distributed.mesh import data_mesh
from yolos_jax.model import classifier_config
from yolos_jax.model.classifier import classifier_params
from yolos_jax.model.config import COCO_CLASSES, VARIANTS
from yolos_jax.programs.command_line import load_recipe
from yolos_jax.tasks.recipe import model_of
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.weights import export_huggingface
from yolos_jax.weights.checkpoints import save
from yolos_jax.weights.image_processor import Sizes

STEP = 3  # step number of the checkpoints
PUBLISHED = {"hustvl/yolos-small": "s", "hustvl/yolos-tiny": "ti"}
DIGITS = [{"id": n, "name": str(n)} for n in range(10)]
MINE = [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}]
# Modules that call `data_mesh`, which uses all devices by default.
MESHES = "training.run", "tasks.detection", "tasks.classification.task"
SMALL = {
    "matcher": "device",  # jax does not cache programs that use the host matcher
    "data.short_side": 48, "data.scales": (32, 48), "data.crop_sides": (48, 64), "data.crop_range": (32, 64),
    "data.buckets": 1, "data.workers": 0, "train.batch_size": 8, "train.max_steps": 1, "train.curves": False,
    "eval.batch_size": 8, "optimizer.rate_batch": 0,
}  # fmt: skip


def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives every variant a width of 2 per head and 10 DET tokens, and shortens recipes to one small step."""
    for name, found in list(VARIANTS.items()):
        variant = dataclasses.replace(found, width=2 * found.heads, det_tokens=10, init_pe_size=(32, 48))
        variant = dataclasses.replace(variant, mid_pe_size=found.mid_pe_size and (32, 48))
        monkeypatch.setitem(VARIANTS, name, variant)
        classifier = dataclasses.replace(classifier_config.CLASSIFIERS[name], width=variant.width)
        monkeypatch.setitem(classifier_config.CLASSIFIERS, name, classifier)
    for name in ("detection_recipe", "pretraining_recipe"):
        monkeypatch.setattr(recipes, name, _small(getattr(recipes, name)))


def _small(recipe: Callable) -> Callable:
    @functools.wraps(recipe)
    def small(*args, **kwargs):
        config = recipe(*args, **kwargs)
        known = recipes.SETTINGS[recipes.task_of(config)]
        config.update_from_flattened_dict({key: value for key, value in SMALL.items() if key in known})
        return config

    return small


def on_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes programs in this process run as if the machine had one device."""
    for name in MESHES:
        module = importlib.import_module(f"yolos_jax.{name}")
        monkeypatch.setattr(module, "data_mesh", lambda _=None: data_mesh(jax.devices()[:1]))


def offline(monkeypatch: pytest.MonkeyPatch, world: Path) -> None:
    """Makes programs use the hub cache that `make` has filled, and folders instead of buckets."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(world / "hub"))
    monkeypatch.setenv("SHARED_STORAGE", str(world / "storage"))
    importlib.import_module("shared_storage")


def make(outer: Path) -> Path:
    """Creates a hub cache in `outer`, and returns a folder that is copied for every page. Call `narrow` first."""
    world = outer / "here"
    make_data(world)
    for name, variant in PUBLISHED.items():
        model, folder = VARIANTS[variant], outer / "made" / variant
        export_huggingface(random_params(model), model, COCO_NAMES, folder, sizes=Sizes(48, 80))
        in_hub_cache(outer / "hub", name, folder)
    write(world / "deit_small_patch16_224.safetensors", deit_state(VARIANTS["s"], 14))
    classifier = classifier_config.CLASSIFIERS["s"]
    save(world / "runs/deit_s", STEP, classifier_params(classifier), Meta(classifier, {}, STEP))
    make_run(world / "runs/s", "yolos_s", "data/coco", COCO_NAMES)
    make_run(world / "demo/run", "digits", "demo/digits", {digit["id"]: digit["name"] for digit in DIGITS})
    for name in ("runs/a", "runs/b", "demo/run"):
        (world / name).mkdir(exist_ok=True)
        lines = [{"step": n, "epoch": 0, "total": 1 / n, "val/AP": n / 10} for n in (1, 2)]
        (world / name / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return world


def make_data(world: Path) -> None:
    """Writes images and data sets."""
    random = np.random.default_rng(0)
    for file in ("cat.jpg", "image.jpg", "photos/a.jpg", "photos/b.png", "images/a.jpg"):
        path = world / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (48, 64, 3), np.uint8)).save(path)
    for split in ("train", "val"):
        make_coco(world / "data/mine", SIZES, split, categories=MINE)
        make_coco(world / "data/coco", SIZES, f"{split}2017", categories=CATEGORIES)
        make_coco(world / "demo/digits", [(64, 64)] * 4, f"{split}2017", categories=DIGITS)
    build_records(world / "data/coco", world / "data/tfds")


def make_run(folder: Path, recipe: str, root: str, names: dict[int, str]) -> None:
    """Writes a checkpoint with random weights, as a run of the recipe would."""
    config = load_recipe(recipe)
    config.data.root = root
    settings = read_any(config)
    model = model_of(settings, COCO_CLASSES)
    save(folder, STEP, random_params(model), Meta(model, names, STEP, {"config": to_json(settings)}))
