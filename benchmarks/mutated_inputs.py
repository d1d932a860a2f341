"""Opens damaged inputs and counts failures: python -m benchmarks.mutated_inputs --inputs 1000 --seed 0.

Small inputs of every kind (data sets in all layouts, images, weights, checkpoints, recipes, run logs) are mutated, each
with its own seed, and opened in a monitored process the same way the command-line programs open them. An input passes
if it is read, or rejected with a one-line error (`refused`). Failures are:

- traceback: an exception other than `InputError`, or an error message with several lines;
- hang: no result within 20 s;
- growth: memory use grew by more than 1 GiB;
- silent: images or splits were dropped without a message.

`--only KIND:NUMBER` opens one input again and prints its traceback.
"""

import argparse
import contextlib
import io
import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from benchmarks.mutations import damage  # noqa: E402

SECONDS, GROWTH = 20.0, 2**30
LAYOUTS = ("coco", "fiftyone", "roboflow", "yolo", "roboflow_yolo", "voc", "voc_flat", "imagefolder")
QUICK = (*LAYOUTS, "class_folders", "image", "weights", "checkpoint", "recipe", "recorded", "run")
KINDS = (*QUICK, "pth", "tfds")  # the last two import PyTorch and TFDS, which is slow
# Relative frequency of each kind; 1 by default.
WEIGHTS = {"yolo": 2, "voc": 2, "imagefolder": 2, "class_folders": 2, "coco": 2}


class Outcome(NamedTuple):
    """The result of opening an input."""

    kind: str
    number: int
    what: str  # description of the mutation
    result: str  # "read", "refused", "traceback", "hang", "growth" or "silent"
    detail: str


def make_templates(folder: Path, kinds: tuple[str, ...] = KINDS) -> None:
    """Writes an intact input of each kind to a folder named after the kind."""
    import made_layouts
    import numpy as np
    from PIL import Image

    data = made_layouts.made()
    folder.mkdir()
    for kind in kinds:
        if kind in LAYOUTS:
            made_layouts.LAYOUTS[kind](folder / kind, data)
    rng = np.random.default_rng(0)
    for name in ("train/ant", "train/bee", "val/ant", "val/bee") if "class_folders" in kinds else ():
        (folder / "class_folders" / name).mkdir(parents=True)
        for i in range(3):
            made_layouts.save(folder / "class_folders" / name / f"{i}.jpg", (20, 24))
    if "image" in kinds:
        (folder / "image").mkdir()
        for ending in ("jpg", "png", "gif", "webp", "tif", "bmp", "ppm"):
            Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8)).save(folder / "image" / f"a.{ending}")
    if {"weights", "checkpoint", "pth"} & set(kinds):
        _make_weights(folder, kinds)
    if "tfds" in kinds:
        from made_tfds import make_tfds

        _, records = make_tfds(folder / "made")
        records.rename(folder / "tfds")
    if "recipe" in kinds:
        (folder / "recipe").mkdir()
        shutil.copy(ROOT / "configs" / "finetune_custom.py", folder / "recipe" / "recipe.py")
    if "recorded" in kinds:
        from yolos_jax.config.reader import read_any, to_json
        from yolos_jax.programs.command_line import load_recipe

        (folder / "recorded").mkdir()
        recorded = to_json(read_any(load_recipe("finetune_custom")))
        (folder / "recorded" / "recipe.json").write_text(json.dumps(recorded, indent=1))
    if "run" in kinds:
        (folder / "run").mkdir()
        lines = [{"step": i, "train/loss": 1 / (i + 1), "val/AP": 0.1 * i} for i in range(5)]
        (folder / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _make_weights(folder: Path, kinds: tuple[str, ...]) -> None:
    from tiny_weights import TINY, huggingface_folder, random_params, reference_state

    from yolos_jax.training.checkpoint_files import Meta
    from yolos_jax.weights import checkpoints
    from yolos_jax.weights.image_processor import Sizes, write_processor

    if "weights" in kinds:
        huggingface_folder(folder / "weights")
        (folder / "weights" / "preprocessor_config.json").write_text(json.dumps(write_processor(Sizes(96, 128))))
    if "pth" in kinds:
        import torch

        (folder / "pth").mkdir()
        state = {name: torch.from_numpy(array.copy()) for name, array in reference_state().items()}
        torch.save({"model": state}, folder / "pth" / "weights.pth")
    if "checkpoint" in kinds:
        names = {i: f"class {i}" for i in range(TINY.num_classes)}
        checkpoints.save(folder / "checkpoint", 3, random_params(TINY), Meta(TINY, names, 3, {}, None, 1333))


def open_layout(folder: Path, damaged: bool, expected: dict[str, tuple[str, int]]) -> list[str]:
    """Reads both splits the way training and yolos-check-data do; returns silently dropped splits and images."""
    from yolos_jax.config.reader import read_recipe
    from yolos_jax.config.recipes import DetectionConfig
    from yolos_jax.datasets.opening import open_split, recognise
    from yolos_jax.errors import InputError
    from yolos_jax.programs.command_line import load_recipe
    from yolos_jax.tools import survey

    recipe = load_recipe("finetune_custom")
    recipe.data.root = str(folder)
    data = read_recipe(recipe, DetectionConfig).data
    lost, words, failures = [], [], []
    _, splits, notes = recognise(folder)
    if damaged and not notes:
        lost += [f"split {split}" for split, _ in expected.values() if split not in splits]
    problems: list[survey.Problem] = []
    for which in ("train", "val"):
        with contextlib.suppress(InputError):
            source = open_split(data, which)
            few = len(source.examples) < expected[which][1]
            if damaged and few and not source.notes and not notes:
                lost.append(f"{expected[which][1] - len(source.examples)} images in {which}")
        try:
            read = survey.survey_split(which, partial(_opened, data, which), problems)
        except InputError as error:
            failures.append(str(error))
            continue
        survey.overview(read)
        problems += survey.image_problems([read])
        words += survey.notes([read], 100)
    survey.verdict(problems)
    long = [sentence for sentence in [*failures, *words, *(p.sentence for p in problems)] if "\n" in sentence]
    if long:
        raise ValueError(f"a message has several lines: {long[0]!r}")
    if len(failures) == 2:
        raise InputError(failures[0])
    return lost


def _opened(data: Any, which: str, complain: Any) -> Any:
    """Opens a split the way yolos-check-data does, collecting problems instead of raising errors."""
    from yolos_jax.datasets.opening import open_split

    return open_split(data, which, complain=complain)


def open_class_folders(folder: Path, damaged: bool, expected: int) -> list[str]:
    from yolos_jax.datasets.class_folders import ClassFolders
    from yolos_jax.images.reading import UnreadableImage

    found = 0
    notes: tuple[str, ...] = ()
    train = ClassFolders(folder, "train")
    for source in (train, ClassFolders(folder, "val", classes=(train.names, train.origin))):
        notes += source.notes
        for i in range(len(source)):
            found += 1
            with contextlib.suppress(UnreadableImage):
                source.read(i)
        source.fingerprint()
    return [f"{expected - found} images"] if damaged and found < expected and not notes else []


def open_images(folder: Path) -> list[str]:
    from yolos_jax.datasets.frames import animation, content_of
    from yolos_jax.datasets.headers import header_of
    from yolos_jax.images.reading import UnreadableImage, read_rgb

    for path in sorted(folder.iterdir()):
        header_of(path)
        with contextlib.suppress(UnreadableImage):
            read_rgb(path)
        with contextlib.suppress(UnreadableImage):
            animated = content_of(path).animated
            for _ in animation(path, True, False) if animated else ():
                pass
    return []


def open_weights(folder: Path) -> list[str]:
    from yolos_jax.weights import load_weights

    load_weights(folder)
    return []


def open_pth(folder: Path) -> list[str]:
    from tiny_weights import TINY

    from yolos_jax.weights import load_weights

    load_weights(folder / "weights.pth", TINY)
    return []


def open_checkpoint(folder: Path) -> list[str]:
    from yolos_jax.weights.checkpoints import load_any, recorded_recipe

    recorded_recipe(folder)
    load_any(folder)
    return []


def open_recipe(folder: Path) -> list[str]:
    from yolos_jax.config.reader import read_any
    from yolos_jax.programs.command_line import load_recipe

    read_any(load_recipe(str(folder / "recipe.py")))
    return []


def open_recorded(folder: Path) -> list[str]:
    from yolos_jax.config.reader import read_any, setting_differences

    with open(os.open(folder / "recipe.json", os.O_RDONLY | os.O_NONBLOCK)) as file:
        try:
            values = json.load(file)
        except (ValueError, RecursionError, OSError):
            return []
    if isinstance(values, dict):
        config = read_any(values)
        setting_differences(values, config)
    return []


def open_run(folder: Path) -> list[str]:
    from yolos_jax.tasks.pictures.curves import series
    from yolos_jax.tools.analysis.runs import _lines

    for key in ("train/loss", "val/AP"):
        series(_lines(folder), key)
    return []


OPEN: dict[str, Callable[[Path], list[str]]] = {
    "image": open_images, "weights": open_weights, "checkpoint": open_checkpoint, "recipe": open_recipe,
    "recorded": open_recorded, "run": open_run, "pth": open_pth,
}  # fmt: skip


def open_input(templates: Path, kind: str, number: int, folder: Path) -> Outcome:
    """Creates the damaged input `number` of a kind in a new folder, opens it, and returns the outcome."""
    from yolos_jax.errors import InputError
    from yolos_jax.images.reading import UnreadableImage

    shutil.copytree(templates / kind, folder, symlinks=True)
    what, damaged = damage(folder, kind, random.Random(f"{kind} {number}"))
    shown = partial(Outcome, kind, number, what)
    before = _peak(reset=True)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            if kind in (*LAYOUTS, "tfds"):
                lost = open_layout(folder, damaged, _expected(kind))
            elif kind == "class_folders":
                lost = open_class_folders(folder, damaged, 12)
            else:
                lost = OPEN[kind](folder)
    except (InputError, UnreadableImage) as error:
        if "\n" in str(error):
            return shown("traceback", f"error message with several lines: {error!r}")
        return shown("refused", str(error))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return shown("traceback", "".join(traceback.format_exception(error)[-4:]))
    growth = _peak() - before
    if growth > GROWTH:
        return shown("growth", f"{growth / 2**20:.0f} MiB")
    return shown("silent", ", ".join(lost)) if lost else shown("read", "")


def _expected(kind: str) -> dict[str, tuple[str, int]]:
    """The names of a layout's splits, and the number of images in each."""
    others = {"fiftyone": "validation", "roboflow": "valid", "imagefolder": "validation", "tfds": "validation"}
    # 0 turns the check off for TFDS, whose reader compares the number of records with the metadata.
    train, val = (0, 0) if kind == "tfds" else (4, 3)
    return {"train": ("train", train), "val": (others.get(kind, "val"), val)}


def _peak(reset: bool = False) -> int:
    """Peak memory in bytes of this process since the last reset, on Linux."""
    with contextlib.suppress(OSError):
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _serve(templates: str, pipe: Any) -> None:
    """Opens inputs requested through a pipe, one after another."""
    import tqdm

    tqdm.tqdm.monitor_interval = 0
    while True:
        kind, number, folder = pipe.recv()
        pipe.send(open_input(Path(templates), kind, number, Path(folder)))


def watch(templates: Path, todo: list[tuple[str, int]], seconds: float = SECONDS) -> list[Outcome]:
    """Opens inputs in a subprocess, which is restarted if it hangs or dies."""
    context = multiprocessing.get_context("spawn")
    outcomes: list[Outcome] = []
    process: Any = None
    pipe: Any = None
    for at, (kind, number) in enumerate(todo):
        if process is None:
            pipe, other = context.Pipe()
            process = context.Process(target=_serve, args=(str(templates), other), daemon=True)
            process.start()
            other.close()
            patience = 120.0  # includes the time for imports
        folder = templates.parent / f"input{at}"
        pipe.send((kind, number, str(folder)))
        try:
            found = pipe.recv() if pipe.poll(patience) else Outcome(kind, number, "", "hang", "")
        except EOFError:
            found = Outcome(kind, number, "", "traceback", "the process died")
        patience = seconds
        if not found.what:
            process.kill()
            process.join()
            process = None
            folder_what = Path(f"{folder}.what")
            what = folder_what.read_text() if folder_what.exists() else ""
            found = found._replace(what=what)
        outcomes.append(found)
        shutil.rmtree(folder, ignore_errors=True)
        Path(f"{folder}.what").unlink(missing_ok=True)
        if found.result not in ("read", "refused"):
            last = found.detail.strip().splitlines()[-1:] or [""]
            print(f"{found.result}: {kind}:{number} {found.what}: {last[0][:160]}", flush=True)
    if process is not None:
        process.kill()
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="number of the first input of each kind")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time limit per input (default 20)")
    parser.add_argument("--only", default="", metavar="KIND:NUMBER")
    parser.add_argument("--out", type=Path, help="JSON file to write all outcomes to")
    args = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        templates = Path(temporary) / "templates"
        kind, _, number = args.only.partition(":")
        make_templates(templates, (kind,) if kind else tuple(args.kinds))
        if kind:
            print("\n".join(open_input(templates, kind, int(number), Path(temporary) / "input")[2:]))
            return
        turns = [kind for kind in args.kinds for _ in range(WEIGHTS.get(kind, 1))]
        counted: Counter[str] = Counter()
        todo = []
        for kind in itertools.islice(itertools.cycle(turns), args.inputs):
            todo.append((kind, args.seed + counted[kind]))
            counted[kind] += 1
        outcomes = watch(templates, todo, args.seconds)
    results = ("read", "refused", "traceback", "hang", "growth", "silent")
    counts = Counter((each.kind, each.result) for each in outcomes)
    print("| kind | inputs | " + " | ".join(results) + " |")
    print("|---|" + "---|" * (len(results) + 1))
    for kind in [*args.kinds, "all"]:
        row = [sum(n for (k, r), n in counts.items() if kind in (k, "all") and r == result) for result in results]
        print(f"| {kind} | {sum(row)} | " + " | ".join(map(str, row)) + " |")
    print(f"{time.perf_counter() - started:.0f} s")
    if args.out:
        args.out.write_text(json.dumps([each._asdict() for each in outcomes], indent=1))


if __name__ == "__main__":
    main()
