"""Measures AP, AP50 and time per image for each program in an exported folder, on a COCO data set.

python -m benchmarks.exported --folder exported --annotations demo/digits/annotations/instances_val2017.json \
    --images demo/digits/val2017

It runs the StableHLO program, and each .onnx file in ONNX Runtime and in OpenVINO if they are installed. Images are
processed one at a time, as in run_detector.py. Times are medians that exclude the first call, which compiles.
"""

import argparse
import contextlib
import importlib.util
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolos_jax.errors import InputError, clear_errors
from yolos_jax.tools.exporting.run_detector import ExportedDetector, Folder, OnnxDetector, open_upright

Detect = Callable[[list[Image.Image], float], list[list[dict[str, Any]]]]


class OpenVinoDetector(OnnxDetector):
    """An .onnx file from an exported folder, run with OpenVINO on the CPU."""

    def __init__(self, folder: Path, file: str = "detector.onnx", precision: str = "f32"):
        import openvino

        Folder.__init__(self, folder)
        self.batch_size = 1
        settings = {"INFERENCE_PRECISION_HINT": precision}  # OpenVINO defaults to bf16 on CPUs that support it
        self.compiled = openvino.Core().compile_model(str(folder / file), "CPU", settings)

    def detect(self, images: list[Image.Image], threshold: float) -> list[list[dict[str, Any]]]:
        """Detects objects in one batch of images."""
        values = self.compiled(self.inputs(images))
        out = {name: values[i] for i, name in enumerate(self.description["outputs"])}
        return [self.objects({name: out[name][i] for name in out}, threshold) for i in range(len(images))]


def programs(folder: Path) -> dict[str, Detect]:
    """Returns all programs in a folder that the installed runtimes can run, keyed by name."""
    found: dict[str, Detect] = {"StableHLO, jax": ExportedDetector(folder)}
    files = sorted(path.name for path in folder.glob("*.onnx"))
    if importlib.util.find_spec("onnxruntime"):
        found |= {f"{file}, onnxruntime": OnnxDetector(folder, file) for file in files}
    if importlib.util.find_spec("openvino"):
        found |= {f"{file}, OpenVINO": OpenVinoDetector(folder, file) for file in files}
        found |= {"detector.onnx, OpenVINO in bf16": OpenVinoDetector(folder, precision="bf16")} if files else {}
    return found


def scores(detect: Detect, truth: COCO, images: Path) -> tuple[float, float, float]:
    """Returns AP, AP50 and the median milliseconds per image, over all images of `truth`."""
    results, seconds = [], []
    for image_id, entry in truth.imgs.items():
        image = open_upright(str(images / entry["file_name"]))
        started = time.perf_counter()
        (objects,) = detect([image], 0.0)
        seconds.append(time.perf_counter() - started)
        for one in objects:
            x0, y0, x1, y1 = one["box"]
            box = [x0, y0, x1 - x0, y1 - y0]
            results.append({"image_id": image_id, "category_id": one["label"], "score": one["score"], "bbox": box})
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1]), 1000 * float(np.median(seconds[1:]))


@clear_errors()
def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, type=Path, help="folder written by yolos-export")
    parser.add_argument("--annotations", required=True, type=Path, help="COCO annotation file")
    parser.add_argument("--images", required=True, type=Path, help="folder with the images")
    args = parser.parse_args()
    if not args.annotations.is_file():
        raise InputError(f"{args.annotations} is not a file; pass a COCO annotation file.")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(args.annotations))
    print("| program | AP | AP50 | ms per image |\n|---|---|---|---|")
    for name, detect in programs(args.folder).items():
        ap, ap50, milliseconds = scores(detect, truth, args.images)
        print(f"| {name} | {ap:.4f} | {ap50:.4f} | {milliseconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
