"""What the measurements share: flags, recipes, and two loaders measured in turns."""

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

AHEAD = 2  # batches that every worker prepares ahead

# (arguments, seed) -> the number of images of every batch that is loaded.
Loader = Callable[[argparse.Namespace, int], Generator[int]]


def positive(text: str) -> int:
    """A flag's whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return value


def loading_flags(description: str | None, split: str, pairs: int) -> argparse.ArgumentParser:
    """The flags of measurements that load images of a COCO folder, `split` and `pairs` being the defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="COCO folder")
    parser.add_argument("--split", default=split)
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--batch-size", type=positive, default=8)
    parser.add_argument("--images", type=positive, default=400, help="images of every measurement")
    parser.add_argument("--pairs", type=positive, default=pairs, help="measurements of each")
    return parser


def recipe_of(name: str) -> ConfigDict:
    """The recipe of that name, or in that file."""
    return load_recipe(name)


def augmentation(name: str) -> Pipeline:
    """As the recipe of that name trains."""
    config = read_recipe(recipe_of(name), DetectionConfig)
    return recipe.augmentation_of(config, recipe.model_of(config, 91))


def in_turns(arguments: argparse.Namespace, loaders: dict[str, Loader]) -> None:
    """Prints images per second of two loaders and their ratio; in turns, so that a busy machine slows both alike."""
    print(processor())
    ratios, (one, other) = [], loaders
    for pair in range(arguments.pairs):
        order = (one, other) if pair % 2 == 0 else (other, one)
        speed = {name: images_per_second(loaders[name], arguments, seed=pair) for name in order}
        ratios.append(speed[one] / speed[other])
        print(f"{one} {speed[one]:7.2f} images/s   {other} {speed[other]:7.2f}   {ratios[-1]:5.2f} x")
    print(f"median of the ratios: {statistics.median(ratios):.2f} x, with {arguments.workers} workers")


def images_per_second(loader: Loader, arguments: argparse.Namespace, seed: int) -> float:
    """Speed from the first batch on, which the start of the workers delays."""
    with contextlib.closing(loader(arguments, seed)) as counts:
        next(counts)
        start = time.perf_counter()
        images = sum(counts)
        return images / (time.perf_counter() - start)


def steps_of(arguments: argparse.Namespace) -> int:
    """Batches of a measurement: those of the images, after a first one."""
    return max(2, ceil_div(arguments.images, arguments.batch_size) + 1)
