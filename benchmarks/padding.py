"""Measures the fraction of padding in training batches, and the time to plan an epoch.

python -m benchmarks.padding --sizes data/coco/annotations/instances_train2017.json

For comparison, it also prints the padding if every image is padded to the largest width and height in its batch, as in
the reference.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks.common import augmentation, positive
from yolos_jax.data.plan import TrainingPlan
from yolos_jax.datasets.annotations import read_annotations
from yolos_jax.errors import InputError, clear_errors

BUCKETS = 4, 8, 12, 16
CANVASES = 8, 16  # batch sizes for the comparison, where images are padded to the largest size in their batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", required=True, type=Path, help="COCO annotation files with image sizes")
    parser.add_argument("--images", type=positive, default=118_000, help="number of images; sizes repeat if necessary")
    parser.add_argument("--batch-size", type=positive, default=8)
    arguments = parser.parse_args()
    listed = [image for path in arguments.sizes for image in read_annotations(path)["images"]]
    if not listed:
        raise InputError(f"{arguments.sizes[0]} lists no images.")
    sizes = np.resize(np.array([(image["width"], image["height"]) for image in listed]), (arguments.images, 2))
    print(f"{len(sizes)} images, with sizes from {len(listed)} annotated images, in batches of {arguments.batch_size}")
    for name in ("yolos_s", "yolos_ti"):
        measure(name, sizes, arguments.batch_size)


def measure(name: str, sizes: np.ndarray, batch_size: int) -> None:
    """Prints the padding in the first epoch of a recipe, and the planning times."""
    pipeline = augmentation(name)
    sides = pipeline.resize.short_sides
    print(f"\n{name}: short sides {min(sides)} to {max(sides)}, long sides up to {pipeline.resize.max_side}")
    print(f"{'':24}{'padding':>10}{'setup':>10}{'per epoch':>10}")
    for buckets in BUCKETS:
        start = time.perf_counter()
        plan = TrainingPlan(sizes, pipeline, batch_size, buckets, epochs=150, seed=0)
        middle = time.perf_counter()
        plan.epoch(0)
        end = time.perf_counter()
        print(f"{f'{buckets} buckets':24}{plan.padding():10.2%}{middle - start:8.2f} s{end - middle:8.2f} s")
    for count in CANVASES:
        if count <= len(sizes):
            share = canvas_padding(pipeline.views(sizes, 0, 0).size, count)
            print(f"{f'same size, batches of {count}':26}{share:8.2%}")


def canvas_padding(sizes: np.ndarray, count: int) -> float:
    """Fraction of padding if batches of `count` random images are padded to their largest width and height."""
    order = np.random.default_rng(0).permutation(len(sizes))[: len(sizes) // count * count]
    batches = sizes[order].astype(np.int64).reshape(-1, count, 2)
    return 1.0 - float(batches.prod(2).sum()) / float(count * batches.max(1).prod(1).sum())


if __name__ == "__main__":
    with clear_errors():
        main()
