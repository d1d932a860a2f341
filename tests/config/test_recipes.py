"""Every recipe in `configs` builds, compiles and trains one step at micro size."""

import dataclasses
import importlib
import math
import re

import jax
import numpy as np
import pytest
from compiled_once import compiled_once
from flax.traverse_util import flatten_dict
from jax.tree_util import tree_leaves_with_path
from made_coco import make_coco
from micro_run import SIZES, lines

from yolos_jax.config.reader import read_recipe
from yolos_jax.config.recipes import DETECTION, DetectionConfig, task_of
from yolos_jax.model.config import VARIANTS, DetectorComputeSettings
from yolos_jax.model.yolos import abstract, build
from yolos_jax.programs.command_line import load_recipe, recipe_files
from yolos_jax.tasks.detection import train
from yolos_jax.tasks.recipe import model_of
from yolos_jax.training.rates import rates_of
from yolos_jax.weights import checkpoints

ALL = recipe_files()
# Classifier recipes are tested in tests/programs/test_pretrain.py.
RECIPES = [name for name in ALL if task_of(load_recipe(name)) == DETECTION]
PUBLISHED = {"yolos_ti": 28.7, "yolos_s": 36.1, "yolos_s_200": 36.1, "yolos_s_dwr": 37.6, "yolos_b": 42.0}
SMALL = {"width": 12, "depth": 2, "heads": 2, "det_tokens": 6, "max_side": 16}


@pytest.fixture(scope="module", autouse=True)
def programs():
    """Shares compiled programs between recipes."""
    with compiled_once():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A COCO folder with every split that the recipes name; each split has 16 images and two categories."""
    root = tmp_path_factory.mktemp("data")
    for split in ("train2017", "val2017", "train", "val", "test"):
        make_coco(root, [*SIZES, *SIZES[:6]], split)
    return root


def micro(name):
    """A recipe's config at micro size."""
    config = load_recipe(name)
    wanted = read_recipe(config, DetectionConfig).model
    config.model.update(SMALL)
    for grid in ("init_pe_size", "mid_pe_size"):
        if getattr(wanted, grid) is not None:
            config.model[grid] = (64, 96)
    patch = wanted.patch_size
    config.data.update(short_side=3 * patch, max_side=6 * patch, max_images=0, buckets=1, workers=0)
    if config.data.scales:
        config.data.update(scales=(2 * patch, 3 * patch), crop_sides=(3 * patch, 4 * patch), crop_range=(32, 64))
    config.init = "from_nothing"
    config.train.update(max_steps=1, log_every=1, curves=False)
    return config


def first_of_each():
    """One test case for each group of recipes with the same first step at micro size; its id lists the group."""
    found = {}
    for name in RECIPES:
        config = micro(name)
        del config.train["epochs"]  # the first step does not depend on it
        found.setdefault(config.to_json(sort_keys=True), []).append(name)
    return [pytest.param(names[0], id="+".join(names)) for names in found.values()]


@pytest.mark.parametrize("name", first_of_each())
def test_recipe_trains_one_step(name, data, tmp_path):
    config = micro(name)
    config.data.root = str(data)
    if config.optimizer.freeze:
        config.train.ema = 0.9  # the average is loaded below, and it must not change frozen parameters either
    assert train(config, tmp_path, devices=jax.devices()[:1]).step == 1
    (line,) = [line for line in lines(tmp_path) if "total" in line]
    assert np.isfinite(list(line.values())).all() and line["grad_norm"] > 0
    params, meta = checkpoints.load_detector(tmp_path)
    assert meta.step == 1
    start = build(meta.model, config.seed, config.init)[1]
    stayed = {p for (p, x), y in zip(tree_leaves_with_path(params), jax.tree.leaves(start)) if np.array_equal(x, y)}
    stayed = {path for path in stayed if "det" in jax.tree_util.keystr(path)}
    assert len(stayed) == (3 if name == "yolos_s_detached" else 0)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_recipes(name):
    """Schedules match the paper (table 2 and appendix), and docstrings state the published AP."""
    module = importlib.import_module(f"configs.{name}")
    config, tiny = module.get_config(), name == "yolos_ti"
    variant = {"yolos_s_200": "s"}.get(name, name.removeprefix("yolos_"))
    computed = dataclasses.asdict(DetectorComputeSettings())
    assert dict(config.model) == VARIANTS[variant].to_dict() | computed | {"from_init": "no"}
    assert (config.train.epochs, config.optimizer.learning_rate) == ((300, 5e-5) if tiny else (150, 2.5e-5))
    assert (config.train.batch_size, config.train.images_per_replica) == ((16, 2) if tiny else (8, 1))
    assert config.data.scales == tuple(range(256, 609, 16) if tiny else range(480, 801, 16))
    assert config.data.short_side == (512 if tiny else 800)
    text = " ".join(module.__doc__.split())
    assert float(re.search(r"AP (\d+\.\d)", text)[1]) == PUBLISHED[name]
    assert f"--config {name} " in text and "8 GPUs" in text


# The other models in the paper (tables 2, 4 and 7, appendix on position embeddings): the base recipe, changes to it,
# and the number of parameters in millions.
ROWS = {
    "yolos_ti_scratch": ("yolos_ti", {"train.epochs": 600}, 6.5),
    "yolos_s_scratch": ("yolos_s", {"train.epochs": 250}, 30.7),
    "yolos_ti_distilled": ("yolos_ti", {}, 6.5),
    "yolos_s_distilled": ("yolos_s", {}, 30.7),
    "yolos_s_detached": ("yolos_s", {"optimizer.freeze": ("det_tokens", "pos_embed.det", "mid_pos_embed.*.det")}, 30.7),
    "yolos_s_type2": ("yolos_s", {"model.init_pe_size": (800, 1344), "model.mid_pe_size": None}, 23.9),
    "yolos_s_compound": ("yolos_s", {"model.depth": 19, "model.width": 240}, 22.0),
}


def plain_count(config):
    """The number of parameters of a model with 92 class outputs, as for COCO, computed by hand."""
    w, (rows, columns) = config.width, config.init_grid
    block = 4 * w * w + 4 * w + 2 * (4 * w * w) + 5 * w + 4 * w  # attention, MLP, two norms
    places = (1 + config.det_tokens) * w
    count = config.depth * block + 768 * w + w + places + 2 * w + places + rows * columns * w
    if config.mid_grid:
        count += (config.depth - 1) * (places + config.mid_grid[0] * config.mid_grid[1] * w)
    return count + 4 * (w * w + w) + (92 + 4) * (w + 1)


@pytest.mark.parametrize("name", ROWS)
def test_other_models_in_the_paper(name):
    base, changes, millions = ROWS[name]
    module = importlib.import_module(f"configs.paper.{name}")
    config, want = module.get_config(), load_recipe(base)
    assert load_recipe(name) == config
    want.update_from_flattened_dict(changes)
    assert config == want and re.search(r"[Pp]aper, (table \d|appendix)", module.__doc__)
    assert f"--config {name} " in module.__doc__
    model = model_of(read_recipe(config, DetectionConfig), 91)
    shapes = abstract(model)[1]
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
    assert count == plain_count(model) and round(count / 1e6, 1) == millions
    if name == "yolos_s_type2":  # the authors report 24.6 M, which also counts the grid that the large one replaces
        assert round((count + 32 * 54 * 384) / 1e6, 1) == 24.6
    rates = flatten_dict(rates_of(config.optimizer, shapes), sep=".")
    frozen = {name for name, rate in rates.items() if not rate.any()}
    assert frozen == ({"det_tokens", "pos_embed.det", "mid_pos_embed.det"} if "detached" in name else set())
