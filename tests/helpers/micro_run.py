"""A recipe that is small enough to train in a test, and images of noise."""

import json
from pathlib import Path

import jax
import numpy as np
from made_coco import make_coco

from yolos_jax.config.recipes import detection_recipe
from yolos_jax.distributed.mesh import replicated
from yolos_jax.distributed.processes import place
from yolos_jax.training.step import fresh_state

SIZES = [(64, 48), (48, 64), (64, 64), (100, 40), (80, 60), (60, 80), (90, 50), (50, 90), (70, 64), (64, 70)]


def micro_data(root: Path, split: str = "train2017") -> Path:
    """Writes a COCO folder with ten images that have one box each; every split has the same images."""
    return make_coco(root, SIZES, split)


def micro_config(root: Path, **changes):
    """A recipe for a micro model: one bucket, two epochs of two steps with four images each, and the given changes."""
    config = detection_recipe("ti")
    config.init, config.matcher = "from_nothing", "device"
    config.model.update(width=12, depth=2, heads=2, det_tokens=6, num_classes=10, init_pe_size=(64, 64))
    config.data.update(root=str(root), val_split="train2017", short_side=48, scales=(32, 48), buckets=1, workers=0)
    config.data.update(crop_sides=(48, 64), crop_range=(32, 64))
    config.train.update(batch_size=4, epochs=2, log_every=1, curves=False)
    config.optimizer.learning_rate = 1e-3
    config.eval.update(batch_size=8, every_epochs=0)
    config.checkpoint.update(every_steps=1, keep=10)
    config.update_from_flattened_dict(changes)
    return config


def lines(workdir: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def without_key_biases(params: dict) -> dict:
    """Zeros the biases of attention keys: their gradient should be zero, but Adam amplifies its rounding errors."""

    def clean(path, x):
        if jax.tree_util.keystr(path).endswith("['qkv']['bias']"):
            x = np.array(x)
            x[..., x.shape[-1] // 3 : 2 * x.shape[-1] // 3] = 0
        return x

    return jax.tree_util.tree_map_with_path(clean, params)


def assert_equal_trees(a, b, atol: float = 0.0) -> None:
    """Checks that two trees are equal, exactly or to within `atol`."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b)):
        off = np.abs(np.float64(x) - np.float64(y)).max(initial=0.0)
        assert off <= atol, (jax.tree_util.keystr(path), off)


def initial_state(params, optimizer, mesh, ema=False):
    """The state at step 0, on every device of `mesh`."""
    return place(jax.tree.map(np.asarray, fresh_state(params, optimizer, ema)), replicated(mesh))
