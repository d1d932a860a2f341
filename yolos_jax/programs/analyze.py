"""Analyses a detector: writes figures and tables of its attention, token specialisation, position embeddings and cost.

yolos-analyze attention cat.jpg --checkpoint runs/s --out out/
yolos-analyze tokens --config yolos_s --config.data.root=data/coco --checkpoint runs/s --out out/
yolos-analyze correlation --config yolos_s --config.data.root=data/coco --checkpoint runs/s --out out/
yolos-analyze cost --sizes-of data/coco/annotations/instances_val2017.json
yolos-analyze positions --checkpoint runs/s --out out/ --size 640 480
yolos-analyze runs runs/a runs/b --out out/

`yolos-analyze COMMAND --help` lists the flags of a command.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from yolos_jax.errors import InputError, clear_errors, make_folder
from yolos_jax.inference.fonts import missing_note
from yolos_jax.programs.command_line import Parser, RecipeParser, say
from yolos_jax.programs.examine_attention import attention


def tokens() -> None:
    """Computes statistics over a split: positions, sizes and classes of the boxes that each DET token predicts.

    yolos-analyze tokens --config yolos_s --config.data.root=data/coco --checkpoint runs/s --out out/
    """
    parser = RecipeParser(tokens.__doc__)
    add_split_flags(parser)
    parser.add_argument(
        "--tokens", type=int, default=10, help="number of tokens to plot, starting with the first (default 10)"
    )
    parser.add_argument(
        "--confident", type=float, default=0.5, help="minimum score of a confident prediction (default 0.5)"
    )
    args, config = parser.parse_recipe()
    if args.tokens < 1 or not 0 <= args.confident <= 1:
        raise InputError("--tokens must be at least 1, and --confident between 0 and 1.")
    out = args.out
    written = ("tokens.csv", "classes.csv", "token_classes.csv", "predictions.json", "tokens.png", "classes.png")
    params, meta, evaluator = opened(args, config, *written)

    from yolos_jax.tasks.pictures.plotting import save_figure
    from yolos_jax.tools.analysis import figures
    from yolos_jax.tools.analysis.tokens import examine_tokens

    names = label_names_of(meta, evaluator, args.checkpoint)
    table, classes, skipped = examine_tokens(evaluator, params, out, names, args.tokens, args.confident)
    font = config.eval.font
    say(missing_note((row["name"] for row in classes), font, "--config.eval.font"))
    save_figure(figures.tokens_figure(table), out / "tokens.png")
    save_figure(figures.classes_figure(classes), out / "classes.png", font)
    say_skipped(skipped)
    print(f"{table.images} images; written to {out}: {', '.join(written)}")


def correlation() -> None:
    """Measures over a split whether similar DET tokens predict nearby boxes, as in the paper's study.

    yolos-analyze correlation --config yolos_s --config.data.root=data/coco --checkpoint runs/s --out out/
    """
    parser = RecipeParser(correlation.__doc__)
    add_split_flags(parser)
    where = "negative values count from the last block (default: the tokens after the last norm)"
    parser.add_argument("--layer", type=int, help=f"plot the tokens after this block, counted from 0; {where}")
    args, config = parser.parse_recipe()
    params, _, evaluator = opened(args, config, "correlation.csv", "scatter.csv", "correlation.png")

    from yolos_jax.tasks.pictures.plotting import save_figure
    from yolos_jax.tools.analysis import figures
    from yolos_jax.tools.analysis.attention_maps import block_of
    from yolos_jax.tools.analysis.correlation import PAPER, check_tokens, examine_correlation
    from yolos_jax.tools.analysis.tables import markdown, write_rows

    layer = None if args.layer is None else block_of(args.layer, evaluator.model.depth)
    check_tokens(evaluator.model)
    make_folder(args.out)
    found, skipped = examine_correlation(evaluator, params, layer)
    rows = found.rows()
    write_rows(args.out / "correlation.csv", rows)
    write_rows(args.out / "scatter.csv", found.scatter_rows())
    save_figure(figures.correlation_figure(found), args.out / "correlation.png")
    shown: dict[str, dict[str, str]] = {}
    for row in rows:
        line = shown.setdefault(row["tokens"], {"tokens": row["tokens"], "images": str(row["images"])})
        line[row["with"]] = f"{row['mean']:+.3f} ± {row['spread']:.3f}"
    print(markdown(list(shown.values())))
    say_skipped(skipped)
    paper = f"{PAPER['centres']:+.2f} for centres and {PAPER['classifier']:+.2f} for the classifier"
    print(f"mean ± standard deviation over images; the paper reports {paper}; written to {args.out}")


def cost() -> None:
    """Reports parameters, multiply-adds and images per second of the paper's variants or of a checkpoint.

    yolos-analyze cost --sizes-of data/coco/annotations/instances_val2017.json --out out/
    yolos-analyze cost --checkpoint runs/s --pictures data/coco/val2017
    """
    parser = Parser(cost.__doc__)
    parser.add_argument(
        "--variants", nargs="+", default=["ti", "s", "s_dwr", "b"], help="variants of the paper (default: all)"
    )
    parser.add_detector_flags(required=False)
    text = "use the sizes of the first 100 images in this annotation file (default: a single size, 640x480)"
    parser.add_argument("--sizes-of", type=Path, help=text)
    text = "also measure speed at batch size 1, on the first 100 images in this folder"
    parser.add_argument("--pictures", type=Path, help=text)
    parser.add_argument(
        "--xla", action="store_true", help="also report the operations that XLA counts, for the first image"
    )
    add_out_flags(parser, "folder for cost.json and cost.csv", required=False)
    args = parser.parse()
    if args.out:
        refuse_existing(args.out, args.overwrite, "cost.json", "cost.csv")

    from yolos_jax.programs.examine_cost import report_cost

    report_cost(args)


def positions() -> None:
    """Plots cosine similarities between the trained position embeddings and, with --size, between resized ones.

    yolos-analyze positions --checkpoint runs/s --out out/ --size 640 480
    """
    parser = Parser(positions.__doc__)
    parser.add_detector_flags()
    add_out_flags(parser, "folder for figures and tables")
    text = "also plot the embeddings resized for an image of this width and height in pixels"
    parser.add_argument("--size", nargs=2, type=int, metavar=("W", "H"), help=text)
    text = "0 for the initial embeddings, N for the embeddings added after block N - 1 (default: all)"
    parser.add_argument("--layer", type=int, help=text)
    parser.add_argument("--arrays", action="store_true", help="also write the cosine similarities to positions.npz")
    args = parser.parse()
    if args.size and min(args.size) < 1:
        raise InputError("both values of --size must be at least 1.")
    refuse_existing(args.out, args.overwrite, "positions.csv")

    import numpy as np

    from yolos_jax.inference.loading import geometry_for, load_model
    from yolos_jax.tasks.pictures.plotting import save_figure
    from yolos_jax.tools.analysis import figures
    from yolos_jax.tools.analysis.positions import by_distance, chosen_grids, grids_of, likeness, resized_grid
    from yolos_jax.tools.analysis.tables import write_rows

    params, meta = load_model(args.checkpoint)
    geometry = geometry_for(meta, args.short_side, args.max_side)
    grids = chosen_grids(grids_of(params), args.layer, meta.model.depth)
    make_folder(args.out)
    if args.size:
        width, height = (side // meta.model.patch_size for side in geometry.size(*args.size))
        grids += [resized_grid(grid, height, width)._replace(name=f"{grid.name}, resized") for grid in grids]
    rows: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    for grid in grids:
        found = likeness(grid)
        name = grid.name.replace(",", "").replace(" ", "_")
        rows += by_distance(found)
        arrays |= {f"{name}.{part}": getattr(found, part) for part in ("places", "maps", "det", "det_patches")}
        save_figure(figures.positions_figure(found), args.out / f"positions_{name}.png")
    write_rows(args.out / "positions.csv", rows)
    if args.arrays:
        np.savez_compressed(args.out / "positions.npz", **arrays)
    print(f"sets of position embeddings: {len(grids)}; written to {args.out}")


def runs() -> None:
    """Plots the curves of several training runs together and writes their values.

    yolos-analyze runs runs/a runs/b --out out/
    """
    parser = Parser(runs.__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders written by yolos-train")
    parser.add_font_flag()
    add_out_flags(parser, "folder for runs.png and runs.csv")
    args = parser.parse()
    refuse_existing(args.out, args.overwrite, "runs.png", "runs.csv")

    from yolos_jax.tools.analysis.runs import compare_runs

    say(missing_note(map(str, args.runs), args.font, "--font"))
    print(compare_runs(args.runs, args.out, args.font))
    print(f"written to {args.out}")


def add_split_flags(parser: Parser) -> None:
    """Adds the flags shared by commands that process a split."""
    parser.add_argument("--checkpoint", required=True, help="checkpoint folder, Hugging Face folder, or hub id")
    add_out_flags(parser, "folder for figures and tables")


def add_out_flags(parser: Parser, text: str, required: bool = True) -> None:
    """Adds `--out`, with `text` as its help, and `--overwrite`."""
    parser.add_argument("--out", required=required, type=Path, help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace files from an earlier run")


def opened(args: Any, config: Any, *names: str) -> tuple[dict, Any, Any]:
    """Returns parameters, metadata and evaluator after checking that no files with these names would be overwritten."""
    refuse_existing(args.out, args.overwrite, *names)
    from yolos_jax.inference.compiled import keep_compiled
    from yolos_jax.tasks.detection import evaluator_for

    say(keep_compiled(config.eval.compilation_cache))
    return evaluator_for(args.recipe, args.checkpoint)


def refuse_existing(out: Path, overwrite: bool, *names: str) -> None:
    """Raises `InputError` if `out` already contains one of these files, unless `overwrite` is set.

    The folder is not created here; each command creates it after all its checks.
    """
    for name in names:
        if (out / name).exists() and not overwrite:
            raise InputError(f"{out / name} already exists; choose another --out, or use --overwrite.")


def label_names_of(meta: Any, evaluator: Any, checkpoint: str) -> dict[int, str]:
    """The checkpoint's label names; if it has none, prints a note and returns those of the data set."""
    if not meta.label_names:
        say(f"the checkpoint {checkpoint} has no class names; using those of the data set")
    return meta.label_names or evaluator.source.label_names


def say_skipped(skipped: Sequence[str]) -> None:
    for sentence in skipped:
        print(f"skipped: {sentence}")


# Each command is a function that parses its own flags.
COMMANDS: dict[str, Callable[[], None]] = {
    "attention": attention, "tokens": tokens, "correlation": correlation, "cost": cost, "positions": positions,
    "runs": runs,
}  # fmt: skip


@clear_errors()
def main() -> None:
    """Runs the command named on the command line."""
    parser = Parser(__doc__, "%(prog)s COMMAND [FLAGS]")
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND", help=", ".join(COMMANDS))
    command = parser.parse_args(sys.argv[1:2]).command
    sys.argv = [f"{os.path.basename(sys.argv[0])} {command}", *sys.argv[2:]]
    COMMANDS[command]()


if __name__ == "__main__":
    main()
