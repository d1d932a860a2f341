"""Evaluates a checkpoint on a COCO folder or a TFDS directory: the 12 numbers, metrics.json, a COCO results file.

python eval.py --config configs/yolos_s.py --checkpoint runs/s --config.data.root=data/coco

The checkpoint is a folder of ours (RUN/best is the best of a run), or a Hugging Face folder.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolos_jax.distributed import launch
from yolos_jax.errors import InputError, clear_errors, make_folder
from yolos_jax.programs.command_line import RecipeParser, join

if TYPE_CHECKING:
    from yolos_jax.checkpoints import Meta
    from yolos_jax.distributed.processes import Team
    from yolos_jax.evaluation.evaluator import Evaluator


def parse() -> tuple[argparse.Namespace, Any]:
    parser = RecipeParser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="checkpoint folder, Hugging Face folder, or hub id")
    parser.add_argument("--out", help="folder for metrics.json and results.json (default CHECKPOINT/eval-STEP)")
    parser.add_argument("--overwrite", action="store_true", help="replace the numbers of an earlier evaluation")
    parser.add_process_flags()
    return parser.parse_recipe()


def main() -> None:
    """The program."""
    args, config = parse()
    with launch.guarded(), clear_errors():
        join(args)
        evaluate(args, config)


def evaluate(args: argparse.Namespace, config: Any) -> None:
    """Evaluates, prints and writes."""
    from yolos_jax.distributed.processes import Team
    from yolos_jax.evaluation.coco_metrics import table, write_report
    from yolos_jax.training.resume import facts_of, refuse_strangers

    team = Team()
    with team.quiet():
        (params, meta, evaluator, out), _ = team.together(lambda: prepare(args, config, team))
        source = evaluator.source
        refuse_strangers(team.tell(facts_of(config, source) | {"step": meta.step}))
        for sentence in source.notes:
            print(f"note: {sentence}")
        result = evaluator(params)
        for sentence in result.skipped:
            print(f"skipped: {sentence}")
        print(table(result.metrics))
        facts = {"checkpoint": args.checkpoint, "step": meta.step, "data": config.data.val_split}
        metrics = result.metrics | facts | {"images": len(source.examples), "skipped": result.skipped}
        team.together(lambda: write_report(out, metrics, result.results) if team.leads else None)
        print(f"{len(source.examples)} images scored, {len(result.skipped)} of them unreadable; written to {out}")


def prepare(args: argparse.Namespace, config: Any, team: "Team") -> "tuple[dict, Meta, Evaluator, Path]":
    """(parameters, meta, evaluator, folder for the numbers), each process for itself."""
    from yolos_jax import recipe
    from yolos_jax.evaluation.evaluator import Evaluator
    from yolos_jax.inference.detector import load_model
    from yolos_jax.training.step import data_mesh
    from yolos_jax.weights import hub_model

    config = recipe.prepare(config)
    if args.out is None and hub_model(args.checkpoint) is not None:
        raise InputError(f"{args.checkpoint} is on the hub; say with --out where its numbers go.")
    params, meta = load_model(args.checkpoint)
    model = recipe.model_of(config, meta.model.num_classes)
    recipe.check_same_model(meta.model, model, args.checkpoint)
    model = dataclasses.replace(model, layer_norm_eps=meta.model.layer_norm_eps)
    out = Path(args.out or Path(args.checkpoint) / f"eval-{meta.step}")
    if team.leads and any((out / n).exists() for n in ("metrics.json", "results.json")) and not args.overwrite:
        raise InputError(f"{out} holds the numbers of an earlier evaluation; give another --out, or --overwrite.")
    if team.leads:
        make_folder(out)
    # A run's labels are its own, whatever the validation file lists; without a run, the recipe's.
    labels = meta.category_ids or (tuple(range(model.num_classes)) if "config" in meta.extra else None)
    source = recipe.source_of(config, "val", labels, model.num_classes)
    geometry, data = recipe.geometry_of(config, model), config.data
    options = config.eval.batch_size, data.buckets, data.on_bad_image, data.workers, data.ahead
    query_block = recipe.compute_of(config, training=False).query_block
    return params, meta, Evaluator(model, source, geometry, data_mesh(), *options, query_block), out


if __name__ == "__main__":
    main()
