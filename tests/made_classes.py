"""Makes folders of class folders: small pictures whose class can be seen, and those that ImageNet is known for."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("blue", "green", "red")
COLOURS = {"blue": (40, 60, 200), "green": (40, 200, 60), "red": (200, 50, 40)}


def picture(name: str, random: np.random.Generator, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """Noise in the colour of a class; `size` is (width, height)."""
    noise = random.integers(-40, 41, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8))


def make_classes(root: Path, split: str, each: int, size=(32, 32), classes=CLASSES) -> Path:
    """`root/split/CLASS/000.jpg` ..., so many of each class."""
    random = np.random.default_rng(sum(split.encode()))
    for name in classes:
        folder = root / split / name
        folder.mkdir(parents=True)
        for i in range(each):
            picture(name, random, size).save(folder / f"{i:03}.jpg")
    return root


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    """The bytes of a file."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()
