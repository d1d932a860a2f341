"""Evaluates a checkpoint on a COCO folder: the 12 numbers, metrics.json and a COCO results file.

python eval.py --config configs/yolos_s.py --checkpoint runs/s --config.data.root=data/coco

The checkpoint is a folder of ours (RUN/best is the best of a run), or a Hugging Face folder.
"""

import dataclasses
from pathlib import Path

from absl import flags

from yolos_jax.cli import run_with_config

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Checkpoint folder, or a Hugging Face folder.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder for metrics.json and results.json (default: CHECKPOINT/eval-STEP).")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the numbers of an earlier evaluation.")


def main(config) -> None:
    from yolos_jax import recipe
    from yolos_jax.detector import load_model
    from yolos_jax.errors import InputError, make_folder
    from yolos_jax.evaluation.coco import table, write_report
    from yolos_jax.evaluation.run import Evaluator
    from yolos_jax.training.step import data_mesh

    recipe.prepare(config)
    params, meta = load_model(CHECKPOINT.value)
    model = recipe.model_of(config, meta.model.num_classes)
    recipe.check_same_model(meta.model, model, CHECKPOINT.value)
    model = dataclasses.replace(recipe.without_training_options(model), layer_norm_eps=meta.model.layer_norm_eps)
    out = Path(OUT.value or Path(CHECKPOINT.value) / f"eval-{meta.step}")
    if any((out / name).exists() for name in ("metrics.json", "results.json")) and not OVERWRITE.value:
        raise InputError(f"{out} holds the numbers of an earlier evaluation; give another --out, or --overwrite.")
    make_folder(out)
    # A run's labels are its own, whatever the validation file lists; without a run, the recipe's.
    labels = meta.category_ids or (tuple(range(model.num_classes)) if "config" in meta.extra else None)
    source = recipe.source_of(config, "val", labels, model.num_classes)
    data = config.data
    evaluator = Evaluator(
        model,
        source,
        recipe.geometry_of(config, model),
        data_mesh(),
        config.eval.batch_size,
        data.buckets,
        data.on_bad_image,
        data.workers,
        data.ahead,
    )
    result = evaluator(params)
    for sentence in result.skipped:
        print(f"skipped: {sentence}")
    print(table(result.metrics))
    facts = {"checkpoint": CHECKPOINT.value, "step": meta.step, "images": len(source.examples)}
    write_report(out, result.metrics | facts | {"skipped": result.skipped}, result.results)
    print(f"{len(source.examples)} images scored, {len(result.skipped)} of them unreadable; written to {out}")


def run() -> None:
    """The program."""
    run_with_config(main, __doc__)
