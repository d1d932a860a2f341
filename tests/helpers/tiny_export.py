"""A tiny checkpoint to export, real images to run it on, and functions that run export.py."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
from cpu_devices import cpu_devices
from reference_pack import data_folder
from tiny_weights import TINY, random_params

from yolos_jax.images.reading import open_rgb
from yolos_jax.images.sequence import default_max_side
from yolos_jax.model.config import YolosConfig
from yolos_jax.programs import export as program
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.weights.checkpoints import save

CONFIG = dataclasses.replace(TINY, det_tokens=320)  # enough tokens to compute attention in several blocks
MAX_SIDE = 20  # patches
SHORT, LONG = 64, default_max_side(64)  # 13 x 8 patches at most
META = Meta(CONFIG, {0: "cat", 2: "dog"}, 7, {"config": {"data": {"short_side": SHORT}}}, (10, 20, 30, 40), MAX_SIDE)


def checkpoint_in(folder: Path, config: YolosConfig = CONFIG) -> Path:
    """Saves the checkpoint as step 7 in a new folder."""
    # Larger parameters would lead to logits of up to 100, whose rounding differs more than tests allow.
    params = jax.tree.map(lambda x: 0.3 * x, random_params(config))
    save(folder, 7, params, dataclasses.replace(META, model=config))
    return folder


def real_images() -> list[str]:
    """Six real images, alternately landscape and portrait."""
    paths = sorted((data_folder("coco_tiny80") / "val2017").glob("*.jpg"))
    sizes = [open_rgb(path).size for path in paths]
    lying = [path for path, (w, h) in zip(paths, sizes) if w > h]
    standing = [path for path, (w, h) in zip(paths, sizes) if w < h]
    found = [path for pair in zip(lying[:3], standing[:3]) for path in pair]
    return [str(path) for path in found]


def call(monkeypatch, *args):
    """Runs export.py in this process."""
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, args)])
    program.export(program.parse())


def run(*args, **kwargs):
    """Runs Python in a separate process with one CPU device."""
    environment = {k: v for k, v in cpu_devices().items() if k != "PYTHONPATH"}
    command = [sys.executable, *map(str, args)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, **kwargs)
