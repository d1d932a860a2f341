"""Single handwritten digits in class folders, for pre-training a classifier before detection on `digits`.

    python -m yolos_jax.datasets.single_digits --out DIR

Scans, ink colours, sizes and the training/validation split are the same as in `digits`.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from yolos_jax.datasets.digits import DIGIT_SIDES, Digits, load_digits, paint, run, split_digits, stencil_of
from yolos_jax.errors import InputError, check_empty

SIDE = 40  # side of an image in pixels, larger than any digit


def one_digit(digits: Digits, which: int, random: np.random.Generator) -> np.ndarray:
    """Draws a scan in bright ink at a random position on a dark background. Returns uint8 `[SIDE, SIDE, 3]`."""
    ground = random.integers(0, 32, 3)
    image = np.broadcast_to(ground, (SIDE, SIDE, 3)).astype(np.float32)
    stencil = stencil_of(digits.scans[which], int(random.integers(DIGIT_SIDES[0], DIGIT_SIDES[1] + 1)))
    x, y = (int(random.integers(SIDE - side + 1)) for side in stencil.shape[::-1])
    paint(image, stencil, (x, y), ground, random)
    return image.round().astype(np.uint8)


def write(out: str | Path, train: int = 8000, val: int = 360, seed: int = 0) -> None:
    """Writes images as `{train,val}/DIGIT/NUMBER.png`, using every scan of a split about equally often.

    The output depends only on the arguments. If `out` exists, it must be empty.
    """
    root = Path(out)
    for name, value, least in (("train", train, 10), ("val", val, 10), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"--{name} is {value}; it must be {least} or more.")
    digits = load_digits()
    try:
        check_empty(root)
        for split, (name, pool, count) in enumerate(zip(("train", "val"), split_digits(digits.labels), (train, val))):
            random = np.random.default_rng([seed, split])
            for label in range(10):
                (root / name / str(label)).mkdir(parents=True)
            order = np.concatenate([random.permutation(pool) for _ in range(-(-count // len(pool)))])
            for number, which in enumerate(order[:count].tolist()):
                path = root / name / str(digits.labels[which]) / f"{number:06d}.png"
                Image.fromarray(one_digit(digits, which, random)).save(path)
    except OSError as error:
        raise InputError(f"the images could not be written to {root}: {error}.") from error


if __name__ == "__main__":
    about = "Writes single digits as class folders."
    run(write, "yolos_jax.datasets.single_digits", about, "images", "positions, sizes and colours")
