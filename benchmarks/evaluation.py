"""Compares the speed of yolos-jax and transformers in evaluation and in detection, on images of different sizes.

python -m benchmarks.evaluation --data data/coco --split val2017 --images 80 --batches 4 1 --out evaluation.json

Both libraries have the same random weights. They read image files, resize the images, detect objects and, in the
evaluation, compute the COCO metrics. The image processor of transformers pads the images of a batch to the same size.
After a first pass of yolos-jax, which compiles, the two alternate; a ratio is the speed of yolos-jax divided by that of
transformers.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import jax

from benchmarks import peers
from benchmarks.cases import Case, params_of
from benchmarks.common import positive
from benchmarks.measuring import alone, in_pairs, machine
from yolos_jax.config.recipes import DetectionConfig, detection_recipe
from yolos_jax.datasets.dataset import DataSet
from yolos_jax.datasets.examples import read_split
from yolos_jax.datasets.opening import find_split
from yolos_jax.datasets.settings import SplitOptions
from yolos_jax.distributed.mesh import data_mesh
from yolos_jax.errors import clear_errors
from yolos_jax.evaluation.coco_metrics import coco_metrics, to_results
from yolos_jax.evaluation.evaluator import Evaluator
from yolos_jax.images.sequence import default_max_side
from yolos_jax.inference.detector import Detector
from yolos_jax.model.config import VARIANTS
from yolos_jax.tasks import recipe
from yolos_jax.tools.analysis.costs import timed
from yolos_jax.tools.analysis.tables import markdown
from yolos_jax.training.checkpoint_files import Meta

WORKLOADS = {"evaluation": "evaluation", "detector": "Detector on files"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="COCO folder")
    parser.add_argument("--split", default="val2017")
    parser.add_argument("--images", type=positive, default=80, help="number of images to use")
    parser.add_argument("--variant", choices=list(VARIANTS), default="s")
    parser.add_argument("--short-side", type=positive, default=800)
    parser.add_argument("--batches", nargs="+", type=positive, default=[4, 1])
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--pairs", type=positive, default=5, help="measurements per library")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    device = jax.devices()[0]
    if not peers.available():
        print("note: PyTorch or transformers is not installed; measuring only yolos-jax", file=sys.stderr)
    found: dict[str, Any] = {"environment": machine(device), "rows": []}
    for batch in arguments.batches:
        for work in arguments.workloads:
            found["rows"].append(measure(work, batch, device, arguments))
            print(markdown([_shown(row) for row in found["rows"]]), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


def measure(work: str, batch: int, device: jax.Device, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures one kind of work at one batch size; returns a row that can be written as JSON."""
    options = SplitOptions(num_classes=91, max_images=arguments.images)
    source = read_split(find_split(Path(arguments.data), arguments.split), options)
    params = params_of(case_of(arguments))
    ours = {"evaluation": _our_evaluation, "detector": _our_detector}[work](source, params, batch, device, arguments)
    first = timed(ours)
    row = {"work": work, "batch": batch, "images": len(source.examples), "first_pass_seconds": first}
    if peers.available():
        theirs = functools.partial(
            Peer(source, params, peers.device_of(device), batch, arguments), score=work == "evaluation"
        )
        pairs = in_pairs(ours, theirs, arguments.pairs, warm=False)
        row |= {"seconds": median(pairs.ours), "theirs": median(pairs.theirs), "ratio": median(pairs.ratios)}
        return row | {"ratios": pairs.ratios}
    return row | {"seconds": median(alone(ours, arguments.pairs))}


def case_of(arguments: argparse.Namespace) -> Case:
    """A case to generate weights for; its batch size and dtype have no effect."""
    return Case(arguments.variant, arguments.short_side, arguments.short_side, 1, "float32")


def _our_evaluation(
    source: DataSet, params: dict, batch: int, device: jax.Device, arguments: argparse.Namespace
) -> Callable[[], Any]:
    """Returns a function that evaluates like yolos-eval, but decodes images in threads instead of processes."""
    config: Any = detection_recipe(arguments.variant)
    config.data.short_side, config.data.workers, config.eval.batch_size = arguments.short_side, 0, batch
    config = recipe.prepare(config, DetectionConfig)
    evaluator: Evaluator = recipe.evaluator_of(config, VARIANTS[arguments.variant], source, data_mesh([device]))
    return functools.partial(evaluator, params)


def _our_detector(
    source: DataSet, params: dict, batch: int, device: jax.Device, arguments: argparse.Namespace
) -> Callable[[], Any]:
    meta = Meta(VARIANTS[arguments.variant], source.label_names)
    detector = Detector(params, meta, arguments.short_side, batch_size=batch)
    files = [example.file for example in source.examples]
    return lambda: detector(files)  # a single call, so that it can group images of similar size


class Peer:
    """Runs the transformers detector on the images of a data set."""

    def __init__(self, source: DataSet, params: dict, device: str, batch: int, arguments: argparse.Namespace):
        import transformers

        side = arguments.short_side
        size = {"shortest_edge": side, "longest_edge": default_max_side(side)}
        self.source, self.device, self.batch = source, device, batch
        self.processor = transformers.YolosImageProcessor(size=size)
        self.model = peers.network(case_of(arguments), params, "sdpa", device).eval()

    def __call__(self, score: bool) -> dict[str, float] | None:
        """Detects objects in all images; if `score`, returns the COCO metrics, which are computed from all queries."""
        import torch

        results: list[dict[str, Any]] = []
        examples = list(self.source.examples)
        for start in range(0, len(examples), self.batch):
            part = examples[start : start + self.batch]
            images = [self.source.read(example) for example in part]
            pixels = self.processor(images=images, return_tensors="pt")["pixel_values"]
            with torch.inference_mode():
                out = self.model(pixel_values=pixels.to(self.device))
            sizes = [(example.height, example.width) for example in part]
            each = self.processor.post_process_object_detection(out, 0.0 if score else 0.5, sizes)
            for example, one in zip(part, each):
                numbers = (one[name].cpu().numpy() for name in ("scores", "labels", "boxes"))
                results += to_results(example.image_id, *numbers)
        if not score:
            return None
        return coco_metrics(self.source.ground_truth(), results, self.source.examples.image_ids.tolist())


def _shown(row: dict[str, Any]) -> dict[str, str]:
    shown = {
        "work": WORKLOADS[row["work"]], "batch": str(row["batch"]), "images": str(row["images"]),
        "first pass (compiles)": f"{row['first_pass_seconds']:.1f} s", "seconds": f"{row['seconds']:.2f}",
        "images/s": f"{row['images'] / row['seconds']:.2f}",
    }  # fmt: skip
    if "theirs" in row:
        shown |= {"transformers": f"{row['theirs']:.2f} s", "speed ratio": f"{row['ratio']:.2f}"}
    return shown


if __name__ == "__main__":
    with clear_errors():
        main()
