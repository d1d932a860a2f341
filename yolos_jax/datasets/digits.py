"""A built-in data set: scenes of handwritten digits, written as a COCO folder.

    python -m yolos_jax.datasets.digits --out DIR

The digits are the 1,797 scans of 8x8 pixels included in scikit-learn, so nothing is downloaded. Each scene is a small
RGB image of one to three enlarged digits in bright ink on a dark background. The digits do not touch each other. The
split is by digit, not by scene: scans used in validation scenes are not used in training scenes. Category ids are 0..9.
"""

import argparse
import inspect
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from yolos_jax.errors import InputError, check_empty, clear_errors

SIDE = 64  # side of a scene in pixels
MOST = 3  # maximum number of digits in a scene
DIGIT_SIDES = (28, 36)  # range of an enlarged digit's side in pixels
HELD_OUT = 0.2  # fraction of each class's digits kept for validation
GAP = 2  # minimum distance between the boxes of two digits in pixels
FAINT = 40  # opacity (of 255) below which enlarged ink is removed, so that boxes end at visible ink


class Digits(NamedTuple):
    """Scanned digits and their labels."""

    scans: np.ndarray  # uint8 [n, 8, 8], ink 0..255
    labels: np.ndarray  # int32 [n], 0..9


class Scene(NamedTuple):
    """An image and its `n` boxes, which are tight around the ink."""

    image: np.ndarray  # uint8 [SIDE, SIDE, 3]
    boxes: np.ndarray  # int32 [n, 4]: x, y, width, height in pixels
    labels: np.ndarray  # int32 [n]
    digits: np.ndarray  # int32 [n]: indices of the scans


def load_digits() -> Digits:
    """Loads the digits from scikit-learn; raises `InputError` if it is not installed."""
    try:
        from sklearn import datasets
    except ImportError as error:
        missing = "the digits are part of scikit-learn, which is not installed"
        raise InputError(f"{missing}; pip install scikit-learn.") from error
    found = datasets.load_digits()
    return Digits((found.images * 255 / 16).round().astype(np.uint8), found.target.astype(np.int32))


def split_digits(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the training digits and of the validation digits, as two disjoint int arrays.

    The split does not depend on the seed of the scenes, so all folders use the same split.
    """
    random = np.random.default_rng(1797)
    train, val = [], []
    for label in range(10):
        members = random.permutation(np.flatnonzero(labels == label))
        held_out = round(len(members) * HELD_OUT)
        val.append(members[:held_out])
        train.append(members[held_out:])
    return np.concatenate(train), np.concatenate(val)


def compose(digits: Digits, pool: np.ndarray, random: np.random.Generator) -> Scene:
    """Generates a scene of 1 to `MOST` digits drawn from `pool` (indices into `digits`)."""
    chosen = random.choice(pool, random.integers(1, MOST + 1), replace=False)
    boxes = None
    while boxes is None:
        stencils = [
            stencil_of(digits.scans[i], int(random.integers(DIGIT_SIDES[0], DIGIT_SIDES[1] + 1))) for i in chosen
        ]
        boxes = _place([stencil.shape for stencil in stencils], random)
    # Ink is brighter than the background by at least 160 in every channel, so ink of opacity FAINT or more is visible.
    ground = random.integers(0, 32, 3)
    image = np.broadcast_to(ground, (SIDE, SIDE, 3)).astype(np.float32)
    for stencil, (x, y, *_) in zip(stencils, boxes):
        paint(image, stencil, (x, y), ground, random)
    return Scene(image.round().astype(np.uint8), boxes, digits.labels[chosen], chosen.astype(np.int32))


def paint(
    image: np.ndarray, stencil: np.ndarray, corner: tuple[int, int], ground: np.ndarray, random: np.random.Generator
) -> None:
    """Draws a stencil in random bright ink onto a float32 image; `corner` is its upper left corner (x, y)."""
    (x, y), (height, width) = corner, stencil.shape
    opacity = stencil[..., None].astype(np.float32) / 255
    image[y : y + height, x : x + width] += opacity * (random.integers(192, 256, 3) - ground)


def stencil_of(scan: np.ndarray, side: int) -> np.ndarray:
    """Enlarges a scan to `side` pixels and crops it to its ink. Returns opacities, uint8 `[height, width]`."""
    large = np.array(Image.fromarray(scan).resize((side, side), Image.Resampling.BICUBIC))
    large[large < FAINT] = 0
    rows, columns = np.flatnonzero(large.any(1)), np.flatnonzero(large.any(0))
    return large[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _place(shapes: Sequence[tuple[int, int]], random: np.random.Generator) -> np.ndarray | None:
    """Places boxes uniformly at random at free positions at least `GAP` apart.

    Returns xywh boxes, int32 `[n, 4]`, or None if there is no free position for one of them.
    """
    boxes: list[tuple[int, int, int, int]] = []
    for height, width in shapes:
        free = np.ones((SIDE - height + 1, SIDE - width + 1), bool)  # upper left corners
        for u, v, w, h in boxes:
            free[max(v - height - GAP + 1, 0) : v + h + GAP, max(u - width - GAP + 1, 0) : u + w + GAP] = False
        places = np.argwhere(free)
        if not len(places):
            return None
        y, x = places[random.integers(len(places))]
        boxes.append((int(x), int(y), width, height))
    return np.array(boxes, np.int32)


def write(out: str | Path, train: int = 6000, val: int = 300, seed: int = 0) -> None:
    """Writes `train` and `val` scenes to `annotations/instances_{train,val}2017.json` and `{train,val}2017/`.

    The output depends only on the arguments, and the split of the digits does not depend on the seed. If `out` exists,
    it must be empty. The validation annotations are written last, so a folder that contains them is complete.
    """
    root = Path(out)
    for name, value, least in (("train", train, 1), ("val", val, 1), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"--{name} is {value}; it must be {least} or more.")
    digits = load_digits()
    pools = split_digits(digits.labels)
    try:
        check_empty(root)
        (root / "annotations").mkdir(parents=True)
        first = 1
        for split, (name, count) in enumerate((("train2017", train), ("val2017", val))):
            # Each split has its own generator, so validation scenes do not depend on the number of training scenes.
            random = np.random.default_rng([seed, split])
            scenes = (compose(digits, pools[split], random) for _ in range(count))
            content = _write_split(root / name, scenes, first)
            (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
            first += count
    except OSError as error:
        raise InputError(f"the scenes could not be written to {root}: {error}.") from error


def _write_split(folder: Path, scenes: Iterable[Scene], first: int) -> dict:
    """Writes images, with ids starting at `first`, and returns their COCO annotations."""
    folder.mkdir()
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, scene in enumerate(scenes, first):
        name = f"{image_id:012d}.png"
        Image.fromarray(scene.image).save(folder / name)
        images.append({"id": image_id, "file_name": name, "width": SIDE, "height": SIDE})
        for box, label in zip(scene.boxes.tolist(), scene.labels.tolist()):
            ids = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label}
            annotations.append(ids | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": label, "name": str(label), "supercategory": "digit"} for label in range(10)]
    info = {"description": "scenes composed of scikit-learn's handwritten digits"}
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def run(write: Callable[[str, int, int, int], None], module: str, what: str, kind: str, seed: str) -> None:
    """Runs the command line of a digits data set; default values are taken from the signature of `write`.

    Args:
      write: writes the data set; called with (out, train, val, seed).
      module: name of the module that is run.
      what: description of the program, one sentence.
      kind: plural noun for the images, such as "scenes".
      seed: what the seed determines.
    """
    usual = {name: found.default for name, found in inspect.signature(write).parameters.items()}
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=what)
    parser.add_argument("--out", required=True, help="output folder, which must be new or empty")
    parser.add_argument("--train", type=int, default=usual["train"], help=f"number of training {kind}")
    parser.add_argument("--val", type=int, default=usual["val"], help=f"number of validation {kind}")
    parser.add_argument("--seed", type=int, default=usual["seed"], help=f"random seed for {seed}")
    with clear_errors():
        args = parser.parse_args()
        write(args.out, args.train, args.val, args.seed)
        print(f"wrote {args.train} training and {args.val} validation {kind} to {args.out}")


if __name__ == "__main__":
    about = "Writes scenes of handwritten digits as a COCO folder."
    run(write, "yolos_jax.datasets.digits", about, "scenes", "the scenes")
