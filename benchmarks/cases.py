"""Benchmark cases: a variant, image size, batch size and dtype, with generated images and targets."""

import argparse
from typing import Any, NamedTuple

import numpy as np

from yolos_jax.model.config import VARIANTS, Compute, YolosConfig
from yolos_jax.model.yolos import build

WORKLOADS = ("forward", "forward_backward", "step")
OBJECTS = 7  # objects per image, about the mean in COCO


class Case(NamedTuple):
    """One row of a table; height and width are in pixels and must be multiples of the patch size."""

    variant: str
    height: int
    width: int
    batch: int
    dtype: str

    @property
    def config(self) -> YolosConfig:
        return VARIANTS[self.variant]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches in an image."""
        return self.height // self.config.patch_size, self.width // self.config.patch_size

    def __str__(self) -> str:
        return f"{self.variant} {self.height}x{self.width}, batch {self.batch}, {self.dtype}"


class Inputs(NamedTuple):
    """The batch for a case."""

    images: np.ndarray  # uint8 [B, H, W, 3]
    labels: np.ndarray  # int32 [B, M]
    boxes: np.ndarray  # float32 [B, M, 4]: cxcywh, relative to the image


def inputs_of(case: Case) -> Inputs:
    """Generates a batch; the values are the same in every process."""
    random, shape = np.random.default_rng(0), (case.batch, OBJECTS)
    images = random.integers(0, 256, (case.batch, case.height, case.width, 3), np.uint8)
    labels = random.integers(0, case.config.num_classes, shape).astype(np.int32)
    boxes = np.concatenate([random.uniform(0.3, 0.7, (*shape, 2)), random.uniform(0.05, 0.5, (*shape, 2))], axis=2)
    return Inputs(images, labels, boxes.astype(np.float32))


def params_of(case: Case) -> dict:
    """Random parameters as nested numpy arrays, initialized so that queries produce different outputs."""
    return build(case.config, 0, "from_nothing")[1]


def size(text: str) -> tuple[int, int]:
    """Parses a flag such as 512x672 into height and width."""
    height, _, width = text.partition("x")
    sides = tuple(int(side) for side in (height, width))
    if any(side < 16 or side % 16 or side > 16 * Compute.max_side for side in sides):
        raise argparse.ArgumentTypeError(f"both sides must be multiples of 16 and at most {16 * Compute.max_side}")
    return sides[0], sides[1]


def add_case_flags(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """Adds the flags whose values are combined into cases."""
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=defaults.get("variants", ["s"]))
    parser.add_argument("--sizes", nargs="+", type=size, default=[(512, 672), (800, 1056)], metavar="HxW")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32"])


def cases_of(arguments: argparse.Namespace) -> list[Case]:
    """Returns a case for each combination of the flags' values."""
    return [
        Case(variant, height, width, batch, dtype)
        for variant in arguments.variants
        for dtype in arguments.dtypes
        for height, width in arguments.sizes
        for batch in arguments.batches
    ]
