"""Evaluates a checkpoint: prints COCO's 12 metrics, and writes metrics.json and a COCO results file.

yolos-eval --checkpoint runs/s
yolos-eval --config yolos_s --checkpoint hustvl/yolos-small --config.data.root=data/coco --out out/

The checkpoint is a folder written by this package (RUN/best is a run's best checkpoint), a Hugging Face folder, or a
model on the hub. A run's checkpoint records its recipe and data; other weights need --config. For a classifier trained
by yolos-pretrain, the metrics are top-1 and top-5 accuracy.
"""

import argparse
import contextlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from yolos_jax.config import recipes
from yolos_jax.distributed import launch
from yolos_jax.errors import InputError, clear_errors, make_folder
from yolos_jax.programs.command_line import RecipeParser, say
from yolos_jax.user_files import read_text

SAME = 1e-3  # largest accepted difference in a metric when an evaluation is repeated on a different device


class Scoring(NamedTuple):
    """The functions that score a task's checkpoints."""

    evaluator_for: Callable[..., tuple[dict, Any, Any]]  # (recipe, checkpoint) -> parameters, meta, evaluator
    facts_of: Callable[[Any], dict[str, Any]]  # the facts that identify a data set
    notes_of: Callable[[Any], tuple[str, ...]]  # notes on a data set


@clear_errors()
def main() -> None:
    """Parses the command line and runs the evaluation."""
    parser = RecipeParser(__doc__, (recipes.DETECTION, recipes.CLASSIFICATION), recorded=True)
    parser.addresses = ("checkpoint", "out")
    parser.add_argument("--checkpoint", required=True, help="checkpoint folder, Hugging Face folder, or hub id")
    text = "folder for metrics.json and results.json (default CHECKPOINT/eval-STEP, or eval-STEP-nmsIOU with --nms)"
    parser.add_argument("--out", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace the results of an earlier evaluation")
    text = "also write an error analysis, as figures and tables (default folder: OUT/plots)"
    parser.add_argument("--plots", nargs="?", const="", metavar="FOLDER", help=text)
    text = "minimum score for the confusion matrix and the worst images of --plots (default 0.5)"
    parser.add_argument("--threshold", type=float, default=0.5, help=text)
    parser.add_nms_flag()
    parser.add_process_flags()
    args, config = parser.parse_recipe()
    with launch.guarded(), clear_errors():
        launch.join(args.coordinator, args.processes, args.process, args.distributed)
        evaluate_checkpoint(args, config)


def evaluate_checkpoint(args: argparse.Namespace, config: recipes.Config) -> None:
    """Evaluates the checkpoint, prints the metrics and writes the results."""
    from yolos_jax.distributed.processes import Processes
    from yolos_jax.inference.compiled import keep_compiled
    from yolos_jax.tasks.base import refuse_unequal, run_facts
    from yolos_jax.tasks.mirror import shared_copy

    task = scoring_of(args, config)
    processes = Processes()
    with processes.only_primary_prints(), contextlib.ExitStack() as files:
        say(keep_compiled(config.eval.compilation_cache))
        if args.config is None:
            processes.agree(refuse_gone, args, config)
        params, meta, evaluator = processes.agree(task.evaluator_for, args.recipe, args.checkpoint)
        suffix = "" if args.nms is None else f"-nms{args.nms:g}"
        place = args.out or f"{args.checkpoint.rstrip('/')}/eval-{meta.step}{suffix}"
        out = files.enter_context(shared_copy(place, processes))
        plots = None if args.plots is None else Path(args.plots or out / "plots")
        earlier = processes.on_primary(make_folders, out, plots, args.overwrite, not args.out)
        source = evaluator.source
        data = task.facts_of(source)
        refuse_unequal(processes.allgather(run_facts(config, data) | {"step": meta.step}))
        for note in task.notes_of(source):
            print(f"note: {note}")
        if plots is not None:
            from yolos_jax.tasks.detection import font_notes

            for note in font_notes(source.label_names, config.eval):
                print(f"note: {note}")
        result = evaluator(params)
        for skipped in result.skipped:
            print(f"skipped: {skipped}")
        print(result.text())
        facts = {"checkpoint": args.checkpoint, "step": meta.step, "data": config.data.val_split}
        facts |= {"images": data["images"]}
        facts |= {"nms": args.nms} if recipes.task_of(config) == recipes.DETECTION else {}
        processes.on_primary(write, out, result, facts, earlier)
        where = f"written to {out}" if earlier is None else f"the metrics in {out} are unchanged"
        print(f"{data['images']} images, {len(result.skipped)} of them unreadable; {where}")
        if plots is not None:
            processes.on_primary(plot, plots, source, result, args.threshold, meta.step, config.eval.font)


def scoring_of(args: argparse.Namespace, config: recipes.Config) -> Scoring:
    """The functions for a recipe's task; `InputError` for flags that do not apply to it."""
    if recipes.task_of(config) == recipes.CLASSIFICATION:
        from yolos_jax.tasks.classification.task import class_evaluator_for, class_facts

        if args.plots is not None or args.nms is not None:
            raise InputError("--plots and --nms require a detector, but this checkpoint is a classifier; omit them.")
        return Scoring(class_evaluator_for, class_facts, lambda source: ())

    from yolos_jax.tasks.detection import data_facts, evaluator_for, scoring_notes
    from yolos_jax.weights import hub_model

    if args.out is None and hub_model(args.checkpoint) is not None:
        raise InputError(f"{args.checkpoint} is on the hub; choose a folder for the results with --out.")
    if not 0 <= args.threshold <= 1:
        raise InputError(f"--threshold is {args.threshold:g}; it must be between 0 and 1.")
    return Scoring(partial(evaluator_for, nms=args.nms), data_facts, scoring_notes)


def refuse_gone(args: argparse.Namespace, config: recipes.Config) -> None:
    """Raises `InputError` if a data path recorded in the checkpoint no longer exists."""
    data: Any = config.data
    named = {name: getattr(data, name, "") for name in ("val_annotations", "val_images")}
    if not all(named.values()):  # empty settings are derived from the root
        named["root"] = data.root
    for name, path in named.items():
        given = f"config.data.{name}" in vars(args)
        if path and not given and not Path(path).exists():
            raise InputError(
                f"the recipe of {args.checkpoint} has data.{name} {path}, which no longer exists; set the new path "
                f"with --config.data.{name}."
            )


def make_folders(out: Path, plots: Path | None, overwrite: bool, beside: bool = False) -> dict[str, Any] | None:
    """Creates the folders. Returns an earlier evaluation's metrics if only figures will be added, otherwise None.

    `beside`: `--out` was not given, so `out` is inside the checkpoint's folder.
    Raises `InputError` if the folders already contain results or are not writable, or if matplotlib is missing.
    """
    file, earlier = out / "metrics.json", None
    if plots is not None and not overwrite and file.exists():
        try:
            earlier = dict(json.loads(read_text(file)))
        except (ValueError, TypeError) as error:
            raise InputError(f"{file} cannot be read ({error}); choose another folder, or use --overwrite.") from error
    files = [] if earlier else [file, out / "results.json"]
    if plots is not None:
        files.append(plots / "summary.json")
    for file in files:
        if file.exists() and not overwrite:
            raise InputError(f"{file} is from an earlier evaluation; choose another folder, or use --overwrite.")
    try:
        make_folder(out)
    except InputError as error:
        other = "; choose another folder with --out." if beside else "."
        raise InputError(str(error).removesuffix(".") + other) from error
    if plots is not None:
        from yolos_jax.tasks.pictures.plotting import new_figure

        new_figure(1, 1)
        make_folder(plots)
    return earlier


def write(out: Path, result: Any, facts: dict[str, Any], earlier: dict[str, Any] | None) -> None:
    """Writes the results; if there are `earlier` metrics, keeps them and raises `InputError` if they differ."""
    if earlier is None:
        result.write(out, facts)
        return
    now = result.metrics | {name: facts[name] for name in ("step", "images", "nms")}
    for name, value in now.items():
        before = earlier.get(name)
        numbers = isinstance(before, int | float) and isinstance(value, int | float)
        if before != value and not (numbers and abs(before - value) <= SAME):
            raise InputError(
                f"{out}/metrics.json is from a different evaluation ({name} was {before} and is now {value}); choose "
                "another folder with --out, or use --overwrite."
            )


def plot(folder: Path, source: Any, result: Any, threshold: float, step: int, font: str) -> None:
    """Writes the error analysis as figures and tables; prints the tables."""
    from yolos_jax.tools.analysis.results import write_results

    ids = source.examples.image_ids.tolist()
    place = {image_id: i for i, image_id in enumerate(ids)}

    def read(image_id: int) -> Any:
        return source.read(source.examples[place[image_id]])

    found = result.results, result.categories
    text = write_results(folder, source.ground_truth(), *found, ids, read, threshold, step, font)
    print(f"\n{text}\n\nfigures and tables written to {folder}")


if __name__ == "__main__":
    main()
