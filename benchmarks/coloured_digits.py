"""A fine-tuning data set: scenes of coloured digits of different sizes on textured backgrounds.

The scanned digits and their split into training and validation are the same as in `yolos_jax.datasets.digits`. The
scenes there have bright digits on a dark background; here, both have random colours, and sizes vary more.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from yolos_jax.datasets.digits import Digits, Scene, load_digits, split_digits, stencil_of

SIDE = 96  # side of a scene in pixels
MOST = 3  # maximum number of digits in a scene
DIGIT_SIDES = (32, 58)  # range of an enlarged scan's side in pixels
GAP = 2  # minimum distance between the boxes of two digits in pixels
GROUND = 110.0  # maximum mean of each background channel, on a scale of 0 to 255
CONTRAST = 90.0  # minimum difference in luma between ink and mean background, on the same scale
TEXTURE = 10.0  # standard deviation of the background's texture, on the same scale
COARSE = 8  # cells per side of the background's texture
LUMA = np.array([0.299, 0.587, 0.114])
TRIES = 50  # maximum number of attempts to place a digit before it is skipped


def write(out: Path, train: int, val: int, seed: int = 0) -> None:
    """Writes a COCO folder with the splits `train` and `val`; the same arguments produce the same files."""
    digits = load_digits()
    pools = split_digits(digits.labels)
    (out / "annotations").mkdir(parents=True)
    first = 1
    for split, (name, count) in enumerate((("train", train), ("val", val))):
        random = np.random.default_rng([seed, split])
        scenes = [compose(digits, pools[split], random) for _ in range(count)]
        content = _write_split(out / name, scenes, first)
        (out / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
        first += count


def compose(digits: Digits, pool: np.ndarray, random: np.random.Generator) -> Scene:
    """Composes a scene of 1 to `MOST` digits drawn from `pool` (indices into `digits`)."""
    mean = random.uniform(0, GROUND, 3)
    image = ground(mean, random)
    wanted = random.choice(pool, random.integers(1, MOST + 1), replace=False)
    boxes: list[tuple[int, int, int, int]] = []
    chosen: list[int] = []
    for index in wanted.tolist():
        side = int(random.integers(DIGIT_SIDES[0], DIGIT_SIDES[1] + 1))
        stencil = stencil_of(digits.scans[index], side)
        box = _place(stencil.shape, boxes, random)
        if box is None:
            continue
        x, y, width, height = box
        opacity = stencil[..., None] / 255
        under = image[y : y + height, x : x + width]
        under += opacity * (ink(mean, random) - under)
        boxes.append(box)
        chosen.append(index)
    pixels = image.clip(0, 255).round().astype(np.uint8)
    return Scene(pixels, np.array(boxes, np.int32), digits.labels[chosen], np.array(chosen, np.int32))


def ground(mean: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A background of one colour with smooth blotches and fine noise, as float64 `[SIDE, SIDE, 3]`."""
    coarse = random.normal(0, TEXTURE, (COARSE, COARSE)).astype(np.float32)
    smooth = np.array(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    fine = random.normal(0, TEXTURE / 4, (SIDE, SIDE, 3))
    return mean + smooth[..., None] + fine


def ink(mean: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A random colour whose luma is at least `CONTRAST` above the background's."""
    while True:
        colour = random.uniform(0, 255, 3)
        if (colour - mean) @ LUMA >= CONTRAST:
            return colour


def _place(
    shape: tuple[int, ...], boxes: list[tuple[int, int, int, int]], random: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """A random xywh box inside the scene, at least `GAP` pixels from the other boxes; None if no attempt succeeds."""
    height, width = shape
    for _ in range(TRIES):
        x = int(random.integers(SIDE - width + 1))
        y = int(random.integers(SIDE - height + 1))
        if all(
            x >= u + w + GAP or u >= x + width + GAP or y >= v + h + GAP or v >= y + height + GAP
            for u, v, w, h in boxes
        ):
            return x, y, width, height
    return None


def _write_split(folder: Path, scenes: list[Scene], first: int) -> dict[str, Any]:
    """Writes images with ids starting at `first` and returns their COCO annotations."""
    folder.mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, scene in enumerate(scenes, first):
        name = f"{image_id:06d}.png"
        Image.fromarray(scene.image).save(folder / name)
        images.append({"id": image_id, "file_name": name, "width": SIDE, "height": SIDE})
        for box, label in zip(scene.boxes.tolist(), scene.labels.tolist()):
            area = box[2] * box[3]
            found = {"image_id": image_id, "category_id": label, "bbox": box, "area": area, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1} | found)
    categories = [{"id": label, "name": str(label)} for label in range(10)]
    return {"images": images, "annotations": annotations, "categories": categories}
