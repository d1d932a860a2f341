"""Every shipped recipe, at a size that a test can train: it builds, compiles and steps once."""

import importlib
import re

import jax
import numpy as np
import pytest
from made_coco import make_coco
from micro_run import SIZES, lines
from reference_pack import ROOT

from yolos_jax import checkpoints
from yolos_jax.model.config import COMPUTE_SETTINGS, VARIANTS, Compute
from yolos_jax.programs.command_line import load_recipe
from yolos_jax.settings import DETECTION, task_of
from yolos_jax.tasks.detection import train

ALL = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.py"))
# Those of classifiers, which pretrain.py trains, are tested in tests/programs/test_pretrain.py.
RECIPES = [name for name in ALL if task_of(load_recipe(name)) == DETECTION]
PUBLISHED = {"yolos_ti": 28.7, "yolos_s": 36.1, "yolos_s_200": 36.1, "yolos_s_dwr": 37.6, "yolos_b": 42.0}
SMALL = {"width": 12, "depth": 2, "heads": 2, "det_tokens": 6, "max_side": 16}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sixteen images of two categories in each split of every naming."""
    root = tmp_path_factory.mktemp("data")
    for split in ("train2017", "val2017", "train", "val", "test"):
        make_coco(root, [*SIZES, *SIZES[:6]], split)
    return root


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_steps_once(name, data, tmp_path):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.model.update(SMALL)
    for grid in ("init_pe_size", "mid_pe_size"):
        if config.model[grid] is not None:
            config.model[grid] = (64, 96)
    patch = config.model.patch_size
    config.data.update(root=str(data), short_side=3 * patch, max_side=6 * patch, max_images=0, buckets=1, workers=0)
    if config.data.scales:
        config.data.update(scales=(2 * patch, 3 * patch), crop_sides=(3 * patch, 4 * patch), crop_range=(32, 64))
    config.init, config.matcher = "from_nothing", "device"
    config.train.update(max_steps=1, log_every=1)
    assert train(config, tmp_path, devices=jax.devices()[:1]).step == 1
    (line,) = [line for line in lines(tmp_path) if "total" in line]
    assert np.isfinite(list(line.values())).all() and line["grad_norm"] > 0
    assert checkpoints.load(tmp_path)[1].step == 1


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_recipes_of_the_paper(name):
    """The published schedules (paper, table 2 and appendix), and what the docstring tells."""
    module = importlib.import_module(f"configs.{name}")
    config, tiny = module.get_config(), name == "yolos_ti"
    variant = {"yolos_s_200": "s"}.get(name, name.removeprefix("yolos_"))
    compute = {key: getattr(Compute(), name) for key, name in COMPUTE_SETTINGS.items()}
    assert dict(config.model) == VARIANTS[variant].to_dict() | compute
    assert (config.train.epochs, config.optimizer.learning_rate) == ((300, 5e-5) if tiny else (150, 2.5e-5))
    assert (config.train.batch_size, config.train.images_per_replica) == ((16, 2) if tiny else (8, 1))
    assert config.data.scales == tuple(range(256, 609, 16) if tiny else range(480, 801, 16))
    assert config.data.short_side == (512 if tiny else 800)
    text = " ".join(module.__doc__.split())
    assert float(re.search(r"AP (\d+\.\d)", text)[1]) == PUBLISHED[name]
    assert f"--config configs/{name}.py" in text and "8 GPUs" in text
