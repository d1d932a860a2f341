"""Generates class folders of small images whose colour shows their class."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from yolos_jax.config.recipes import pretraining_recipe

CLASSES = ("blue", "green", "red")
COLOURS = {"blue": (40, 60, 200), "green": (40, 200, 60), "red": (200, 50, 40)}


def picture(name: str, random: np.random.Generator, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """An image of noise in the colour of a class; `size` is (width, height)."""
    noise = random.integers(-40, 41, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8))


def make_classes(root: Path, split: str, each: int, size=(32, 32), classes=CLASSES) -> Path:
    """Writes `each` images per class, as `root/split/CLASS/000.jpg` and so on."""
    random = np.random.default_rng(sum(split.encode()))
    for name in classes:
        folder = root / split / name
        folder.mkdir(parents=True)
        for i in range(each):
            picture(name, random, size).save(folder / f"{i:03}.jpg")
    return root


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    """The bytes of an image file."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def classifier_config(root, **changes):
    """A recipe for a micro classifier as wide as the detector of `micro_run`, with the given changes."""
    config = pretraining_recipe("ti")
    config.init = "from_nothing"
    config.model.update(width=12, depth=2, heads=2, image_size=32)
    config.data.update(root=str(root), workers=0)
    config.train.update(batch_size=64, epochs=1, log_every=1)
    config.optimizer.update(learning_rate=5e-3, warmup_epochs=0.1, rate_batch=0)
    config.eval.update(batch_size=104, every_epochs=1)
    config.augment.update(magnitude=3.0, erase=0.1)
    config.checkpoint.update(every_steps=3, keep=10)
    config.update_from_flattened_dict(changes)
    return config
