"""Compares how fast pycocotools and faster-coco-eval compute the COCO metrics of synthetic detections.

python -m benchmarks.scoring --images 5000 --pairs 3

As in COCO val2017, there are 80 categories and 7.3 objects per image on average. Each image has 100 detections.
Measurements of the two libraries alternate.
"""

import argparse
import functools
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common import positive
from benchmarks.measuring import in_pairs
from yolos_jax.errors import clear_errors
from yolos_jax.evaluation.coco_metrics import scored
from yolos_jax.evaluation.settings import FASTER, PYCOCOTOOLS

OBJECTS, CATEGORIES, DETECTIONS = 7.3, 80, 100
WIDTH, HEIGHT = 640, 480


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=positive, default=5000)
    parser.add_argument("--pairs", type=positive, default=3, help="measurements per library")
    arguments = parser.parse_args()
    truth, results = made(arguments.images)
    found: dict[str, dict[str, float]] = {}

    def score(name: str) -> None:
        found[name], _ = scored(truth, results, None, name)

    ours, theirs = (functools.partial(score, name) for name in (FASTER, PYCOCOTOOLS))
    pairs = in_pairs(ours, theirs, arguments.pairs, warm=False)
    print(f"{arguments.images} images, {len(truth['annotations'])} objects, {len(results)} detections")
    print(f"{PYCOCOTOOLS}: {median(pairs.theirs):.1f} s; {FASTER}: {median(pairs.ours):.1f} s")
    print(f"speedup {median(pairs.ratios):.1f} (all pairs: {', '.join(f'{ratio:.1f}' for ratio in pairs.ratios)})")
    off = max(abs(value - found[FASTER][name]) for name, value in found[PYCOCOTOOLS].items())
    print(f"largest difference over {len(found[FASTER])} metrics: {off:.1e}")


def made(images: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Generates ground truth and results: one detection with a perturbed box per object, the rest random."""
    rng = np.random.default_rng(0)
    categories = np.arange(1, CATEGORIES + 1)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id in range(1, images + 1):
        objects = min(rng.poisson(OBJECTS), DETECTIONS)
        labels, boxes = rng.choice(categories, DETECTIONS), boxes_of(rng, DETECTIONS)
        for label, box in zip(labels[:objects], boxes):
            facts = {"id": len(annotations) + 1, "image_id": image_id, "category_id": int(label)}
            crowd = int(rng.random() < 0.01)
            annotations.append(facts | {"bbox": box.tolist(), "area": float(box[2] * box[3]), "iscrowd": crowd})
        boxes[:objects] *= 1 + rng.normal(0, 0.08, (objects, 4))
        for label, box, score in zip(labels, boxes, rng.random(DETECTIONS)):
            facts = {"image_id": image_id, "category_id": int(label)}
            results.append(facts | {"bbox": box.tolist(), "score": float(score)})
    truth = {
        "images": [{"id": i, "width": WIDTH, "height": HEIGHT} for i in range(1, images + 1)],
        "categories": [{"id": int(i), "name": f"category {i}"} for i in categories],
        "annotations": annotations,
    }
    return truth, results


def boxes_of(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random xywh boxes in pixels, float64 `[count, 4]`; sides are log-uniform from 4 to 240 pixels."""
    sides = np.exp(rng.uniform(np.log(4), np.log(240), (count, 2)))
    corners = rng.uniform(0, (WIDTH, HEIGHT) - sides)
    return np.concatenate([corners, sides], axis=1)


if __name__ == "__main__":
    with clear_errors():
        main()
