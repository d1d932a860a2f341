"""Shared parts of the benchmarks: flags, recipes, and the comparison of two loaders."""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Generator
from pathlib import Path

from ml_collections import ConfigDict

from benchmarks.measuring import processor
from yolos_jax.config.reader import read_recipe
from yolos_jax.config.recipes import DetectionConfig
from yolos_jax.data.augment import Pipeline
from yolos_jax.images.sequence import ceil_div
from yolos_jax.programs.command_line import load_recipe
from yolos_jax.tasks import recipe

AHEAD = 2  # batches that each worker prefetches

# (arguments, seed) -> a generator of the number of images in each batch.
Loader = Callable[[argparse.Namespace, int], Generator[int]]


def positive(text: str) -> int:
    """Parses a flag as an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def loading_flags(description: str | None, split: str, pairs: int) -> argparse.ArgumentParser:
    """A parser for benchmarks that load images from a COCO folder; `split` and `pairs` are the flags' defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="COCO folder")
    parser.add_argument("--split", default=split)
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--batch-size", type=positive, default=8)
    parser.add_argument("--images", type=positive, default=400, help="images per measurement")
    parser.add_argument("--pairs", type=positive, default=pairs, help="measurements per loader")
    return parser


def recipe_of(name: str) -> ConfigDict:
    """Loads a recipe, given its name or file."""
    return load_recipe(name)


def augmentation(name: str) -> Pipeline:
    """The augmentation pipeline of a recipe."""
    config = read_recipe(recipe_of(name), DetectionConfig)
    return recipe.augmentation_of(config, recipe.model_of(config, 91))


def in_turns(arguments: argparse.Namespace, loaders: dict[str, Loader]) -> None:
    """Alternates two loaders, so that other load affects both, and prints their images per second and the ratio."""
    print(processor())
    ratios, (one, other) = [], loaders
    for pair in range(arguments.pairs):
        order = (one, other) if pair % 2 == 0 else (other, one)
        speed = {name: images_per_second(loaders[name], arguments, seed=pair) for name in order}
        ratios.append(speed[one] / speed[other])
        print(f"{one} {speed[one]:7.2f} images/s   {other} {speed[other]:7.2f}   {ratios[-1]:5.2f} x")
    print(f"median ratio: {statistics.median(ratios):.2f} x with {arguments.workers} worker(s)")


def images_per_second(loader: Loader, arguments: argparse.Namespace, seed: int) -> float:
    """Images per second, excluding the first batch, which has to wait for the workers to start."""
    with contextlib.closing(loader(arguments, seed)) as counts:
        next(counts)
        start = time.perf_counter()
        images = sum(counts)
        return images / (time.perf_counter() - start)


def steps_of(arguments: argparse.Namespace) -> int:
    """Number of batches in a measurement: the first one, which is not timed, and enough for the requested images."""
    return max(2, ceil_div(arguments.images, arguments.batch_size) + 1)
