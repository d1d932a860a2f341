"""Compares the speed of loading images for evaluation from TFDS records and from a COCO folder.

python -m benchmarks.records --data data/coco --tfds data/tfds --split val2017 --workers 2
"""

import argparse
import contextlib
import functools
import sys
from collections.abc import Generator
from pathlib import Path

from benchmarks.common import AHEAD, in_turns, loading_flags, recipe_of, steps_of
from yolos_jax.data.augment import Pipeline
from yolos_jax.data.detection_batches import detection_work
from yolos_jax.data.examples import Source
from yolos_jax.data.loader import load_batches
from yolos_jax.data.plan import EvaluationPlan, PlannedBatch
from yolos_jax.datasets.examples import read_split
from yolos_jax.datasets.opening import find_split
from yolos_jax.datasets.settings import SplitOptions
from yolos_jax.errors import clear_errors
from yolos_jax.tasks import recipe


def main() -> None:
    parser = loading_flags(__doc__, "val2017", pairs=9)
    parser.add_argument("--tfds", required=True, type=Path, help="TFDS directory with the same images")
    arguments = parser.parse_args()
    folder = read_split(find_split(Path(arguments.data), arguments.split), SplitOptions())
    records = read_split(find_split(arguments.tfds, arguments.split, folder.origin), SplitOptions())
    in_turns(
        arguments, {"records": functools.partial(evaluated, records), "folder": functools.partial(evaluated, folder)}
    )


def evaluated(source: Source, arguments: argparse.Namespace, seed: int) -> Generator[int]:
    """Repeatedly loads batches as in the evaluation of yolos_s; yields the number of images in each batch."""
    config = recipe_of("yolos_s")
    geometry = recipe.geometry_of(config, recipe.model_of(config, 91))
    sizes, pipeline = source.examples.sizes, Pipeline.of(geometry)
    plan = Again(EvaluationPlan(sizes, pipeline, arguments.batch_size, config.data.buckets))
    work = detection_work(source, plan, geometry.patch, geometry.model_max_side)
    with contextlib.closing(load_batches(work, 0, steps_of(arguments), arguments.workers, AHEAD)) as batches:
        yield from (int(loaded.batch.valid.sum()) for loaded in batches)


class Again:
    """Repeats an evaluation plan endlessly."""

    def __init__(self, plan: EvaluationPlan):
        self.plan, self.pipeline, self.substitute = plan, plan.pipeline, plan.substitute
        self.batch_size, self.edges = plan.batch_size, plan.edges

    def __len__(self) -> int:
        return sys.maxsize

    def batch(self, step: int) -> PlannedBatch:
        return self.plan.batch(step % len(self.plan))


if __name__ == "__main__":
    with clear_errors():
        main()
