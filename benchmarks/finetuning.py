"""Compares the fine-tuning recipe with its version at commit 27265a3, change by change, with a micro model.

python -m benchmarks.finetuning --out runs/finetuning --bccd data/bccd
python -m benchmarks.finetuning --out runs/finetuning --data digits --images 200 --rows 27265a3 all --seeds 0
python -m benchmarks.finetuning --out runs/finetuning --rows all all,data.augment=light   # current, and a variant

A micro detector is fine-tuned on --images images: coloured digits on textured backgrounds (200 validation scenes), or
photos of blood cells (--bccd: the data set in Pascal VOC layout, 205 training and 87 validation photos). It starts
from a detector of digits (`start`, which is first trained on `datasets.digits` with configs/digits.py and 32 DET
tokens) or from random weights (`nothing`). Image sizes and the learning rate are adapted to the micro model
(`finetuning_rows`); everything else is unchanged. The seed selects the images and their order.

AP is from the last evaluation of the averaged parameters, `best AP` from the best one, and `raw AP` from the last
evaluation of the parameters without averaging. Each run is a separate process on one core. `seconds` includes
compilation; `CPU seconds` does not depend on other processes on that core. Each run adds a line to OUT/results.jsonl,
and runs that have a result there are skipped.
"""

import argparse
import contextlib
import json
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import coloured_digits, run_queue
from benchmarks.common import positive, recipe_of
from benchmarks.finetuning_rows import CONSTANT, ROWS, SIZES, recipe_from, settings_of, with_constant_average
from yolos_jax.errors import InputError, clear_errors
from yolos_jax.tools.analysis.tables import markdown

STARTS = ("start", "nothing")
SCENES = (1000, 200)  # number of training and validation scenes
DET_TOKENS = 32  # DET tokens of the micro detector; a photo of blood cells has up to 30 boxes
REDUCED = 192  # short side of the resized photos in pixels
NUMBERS = ("AP", "AP50", "best AP", "best AP50", "raw AP", "seconds", "CPU seconds", "steps")


def main() -> None:
    """Executes the runs that have no result yet, and prints the table."""
    if sys.argv[1:2] == [run_queue.ONE]:
        one(json.loads(sys.argv[2]))
        return
    arguments = flags().parse_args()
    start = arguments.start or start_of(arguments.out, arguments.start_epochs)
    runs = runs_of(arguments, start)
    results = run_queue.run_all("benchmarks.finetuning", runs, arguments.out, arguments.jobs)
    print(markdown(table(results)))


def flags() -> argparse.ArgumentParser:
    """The command-line parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs and results")
    parser.add_argument("--data", nargs="+", choices=[*SIZES], default=[*SIZES])
    parser.add_argument("--bccd", type=Path, help="folder of the blood cell data set, for --data bccd")
    parser.add_argument("--images", type=positive, nargs="+", default=[50, 200, 1000], help="number of training images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--rows",
        nargs="+",
        default=[*ROWS],
        help="rows of the table; a row may add settings: all,data.augment=light",
    )
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=[*STARTS])
    parser.add_argument("--start", type=Path, help="run to use as the starting detector (default: train one)")
    parser.add_argument("--start-epochs", type=positive, help="epochs to train the starting detector")
    parser.add_argument("--jobs", type=positive, default=2, help="number of parallel runs, each on one core")
    return parser


def start_of(out: Path, epochs: int | None) -> Path:
    """Returns the run of a micro detector for digit scenes; trains it if it does not exist."""
    from yolos_jax import train
    from yolos_jax.datasets import digits

    scenes, folder = out / "scenes", out / "start"
    if not (scenes / "annotations" / "instances_val2017.json").is_file():  # this file is written last
        shutil.rmtree(scenes, ignore_errors=True)
        digits.write(scenes)
    config: Any = recipe_of("digits")
    config.model.det_tokens = DET_TOKENS
    config.data.root = str(scenes)
    config.train.epochs = epochs or config.train.epochs
    train(config, folder)  # resumes an interrupted run, and returns at once if it is complete
    return folder


def runs_of(arguments: argparse.Namespace, start: Path) -> list[dict[str, Any]]:
    """Returns the runs for `run_queue`; prints a message for each row or number of images that it has to skip."""
    from yolos_jax.inference.loading import load_model

    model = load_model(start)[1].model
    found = []
    for data in arguments.data:
        root = data_folder(data, arguments)
        most = len(_content(root, "train")["images"])
        for row in arguments.rows:
            with _told():
                settings = settings_of(row, data, model)
                for images in arguments.images:
                    found += _runs_of_row(arguments, start, settings, row, data, images, most)
    return found


def _runs_of_row(
    arguments: argparse.Namespace, start: Path, settings: dict[str, Any], row: str, data: str, images: int, most: int
) -> list[dict[str, Any]]:
    """Returns a run for each starting point and seed."""
    if images > most:
        print(f"skipped: {data} has only {most} training images, not {images}")
        return []
    found = []
    for begin in arguments.starts:
        for seed in arguments.seeds:
            root = data_folder(data, arguments)
            init = str(start) if begin == "start" else "from_nothing"
            own = {"data.root": str(root), "data.train_annotations": str(subset(root, images, seed)), "init": init}
            name = f"{data}-{images}-{begin}-{row}-{seed}"
            shown = {"name": name, "data": data, "images": images, "start": begin, "row": row, "seed": seed}
            folder = {"workdir": str(arguments.out / "runs" / name)}
            found.append(shown | folder | {"settings": settings | own | {"seed": seed}})
    return found


@contextlib.contextmanager
def _told() -> Any:
    """Prints an `InputError` raised in the block instead of propagating it."""
    try:
        yield
    except InputError as error:
        print(f"skipped: {error}")


def data_folder(data: str, arguments: argparse.Namespace) -> Path:
    """Returns a COCO folder with the splits train and val; writes it if it does not exist."""
    folder: Path = arguments.out / data
    if (folder / "made").is_file():  # written last, so the folder is complete
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    if data == "digits":
        coloured_digits.write(folder, *SCENES)
    elif arguments.bccd is None:
        raise InputError("the photos of blood cells are required; pass their folder as --bccd, or use --data digits.")
    else:
        write_reduced(arguments.bccd, folder, REDUCED)
    (folder / "made").touch()
    return folder


def write_reduced(root: Path, out: Path, short_side: int) -> None:
    """Writes the splits train and val of a data set in any layout as a COCO folder of smaller images."""
    from yolos_jax.config.recipes import DetectionConfig
    from yolos_jax.tasks.recipe import prepare, source_of

    names = {"root": str(root), "train_split": "train", "val_split": "val", "categories": "contiguous"}
    config = prepare({"model": {"num_classes": 0}, "data": names}, DetectionConfig)
    (out / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        source = source_of(config, split)
        (out / split).mkdir()
        content = dict(source.ground_truth())
        boxes_of: dict[int, list[dict[str, Any]]] = {}
        for annotation in content["annotations"]:
            boxes_of.setdefault(annotation["image_id"], []).append(annotation)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for example in source.examples:
            share = short_side / min(example.width, example.height)
            width, height = round(example.width * share), round(example.height * share)
            name = f"{example.image_id:06d}.png"
            small = source.read(example).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=None)
            small.save(out / split / name)
            images.append({"id": example.image_id, "file_name": name, "width": width, "height": height})
            for annotation in boxes_of.get(example.image_id, []):
                across, down = width / example.width, height / example.height
                x, y, w, h = annotation["bbox"]
                box = [x * across, y * down, w * across, h * down]
                kept = {key: annotation[key] for key in ("image_id", "category_id")}
                number = {"id": len(annotations) + 1, "iscrowd": int(annotation.get("iscrowd") or 0)}
                annotations.append(number | kept | {"bbox": box, "area": box[2] * box[3]})
        written = {"images": images, "annotations": annotations, "categories": content["categories"]}
        (out / "annotations" / f"instances_{split}.json").write_text(json.dumps(written))


def subset(root: Path, images: int, seed: int) -> Path:
    """Writes the annotations of randomly selected images, the same for every row, and returns the path of the file."""
    path = root / "subsets" / f"{images}-{seed}.json"
    content = _content(root, "train")
    order = np.random.default_rng([seed, 2]).permutation(len(content["images"]))
    chosen = [content["images"][i] for i in sorted(order[:images].tolist())]
    ids = {image["id"] for image in chosen}
    annotations = [each for each in content["annotations"] if each["image_id"] in ids]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content | {"images": chosen, "annotations": annotations}))
    return path


def _content(root: Path, split: str) -> dict[str, Any]:
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def one(run: dict[str, Any]) -> None:
    """Executes one run and prints its results as JSON on the last line."""
    run_queue.stay_on(run["core"])
    import jax

    from yolos_jax import train

    settings, workdir = run["settings"], Path(run["workdir"])
    if settings[CONSTANT]:
        with_constant_average()
    shutil.rmtree(workdir, ignore_errors=True)  # left by an interrupted run, whose time is unknown
    begin, worked = time.perf_counter(), time.process_time()
    outcome = train(recipe_from(settings), workdir, devices=jax.devices()[:1])
    seconds = {"seconds": time.perf_counter() - begin, "CPU seconds": time.process_time() - worked}
    if outcome.signal:
        sys.exit(128 + outcome.signal)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    result = numbers_of(lines, outcome.step) | seconds
    for folder in [*workdir.glob("[0-9]*"), workdir / "best", workdir / "tensorboard"]:
        shutil.rmtree(folder, ignore_errors=True)  # saves disk space: a table can have hundreds of runs
    print(json.dumps(result))


def numbers_of(lines: Sequence[dict[str, Any]], steps: int) -> dict[str, Any]:
    """Extracts a run's results from the lines of its `metrics.jsonl`."""
    evaluations = [line for line in lines if "val/AP" in line]
    last = evaluations[-1]
    if last["step"] != steps:
        raise InputError(f"the run has {steps} steps, but its last evaluation is at step {last['step']}.")
    best = max(evaluations, key=lambda line: line["val/AP"])
    found = {"AP": last["val/AP"], "AP50": last["val/AP50"]}
    found |= {"best AP": best["val/AP"], "best AP50": best["val/AP50"], "best step": best["step"], "steps": steps}
    raw = [line["val_raw/AP"] for line in lines if "val_raw/AP" in line]
    return found | ({"raw AP": raw[-1]} if raw else {})


def table(results: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Table rows for `markdown`, with the mean and the range over seeds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for result in results:
        run = result["run"]
        key = run["data"], run["images"], run["start"], run["row"]
        groups.setdefault(key, []).append(result)
    rows = []
    for key, group in groups.items():
        row = dict(zip(("data", "images", "start", "row"), map(str, key)))
        for name in NUMBERS:
            values = [result[name] for result in group if name in result]
            row[name] = spread(values, ".0f" if name in ("seconds", "CPU seconds", "steps") else ".3f")
        rows.append(row | {"seeds": str(len(group))})
    return sorted(rows, key=lambda row: (row["data"], int(row["images"]), row["start"] == "nothing"))


def spread(values: Sequence[float], form: str) -> str:
    """Formats mean and range, as in "0.412 (0.401 to 0.420)", or only the mean if all values are equal when rounded."""
    if not values:
        return ""
    mean = format(statistics.mean(values), form)
    low, high = format(min(values), form), format(max(values), form)
    return mean if low == high else f"{mean} ({low} to {high})"


if __name__ == "__main__":
    with clear_errors():
        main()
