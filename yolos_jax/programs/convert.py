"""Converts weights: reference or Hugging Face YOLOS, or a ViT to start from, into a checkpoint; or out again.

python convert.py SOURCE --out DIR                  a checkpoint of ours
python convert.py SOURCE --out DIR --to-hf          a folder for transformers; SOURCE may be a checkpoint of ours

SOURCE is a .safetensors or .pth file, a Hugging Face folder, or a model on the hub (hustvl/yolos-small,
org/name@revision): YOLOS, DeiT (timm's or transformers'), DINO, MoCo v3 or MAE. With --to-hf it may be a checkpoint
of pretrain.py, which becomes transformers' ViT or DeiT, with timm's names in a second file. Settings come from
SOURCE where it has any; --variant or --config names them where it does not, and is checked against it where it does.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from yolos_jax.config.reader import read
from yolos_jax.config.recipes import DetectionConfig
from yolos_jax.errors import InputError, check_empty, clear_errors
from yolos_jax.programs.command_line import Parser, load_recipe

if TYPE_CHECKING:
    from yolos_jax.training.checkpoint_files import Meta
    from yolos_jax.weights.card import Facts


def read_source(args: argparse.Namespace) -> "tuple[dict, Meta, object]":
    """(parameters, what a checkpoint is to say about them, what to print about them) of SOURCE."""
    from yolos_jax.datasets.coco_names import COCO_NAMES
    from yolos_jax.model.classifier_config import ClassifierConfig
    from yolos_jax.model.config import COCO_CLASSES
    from yolos_jax.tasks import recipe
    from yolos_jax.training import checkpoint_files
    from yolos_jax.weights import checkpoints, load_weights, variant_of, with_classes

    wanted, is_open = None if args.variant is None else variant_of(args.variant), False
    if args.config is not None:
        config = load_recipe(args.config)
        config = read(config, DetectionConfig)
        wanted, is_open = recipe.model_of(config, COCO_CLASSES), config.model.num_classes == 0
    if checkpoint_files.steps(args.source):
        if not args.to_hf:
            raise InputError(f"{args.source} is a checkpoint of ours already; add --to-hf to export it.")
        params, meta = checkpoints.load_any(args.source)
        if isinstance(meta.model, ClassifierConfig) and wanted is not None:
            raise InputError(f"{args.source} holds an image classifier, which says its own settings; leave them out.")
        if wanted is not None and is_open:
            wanted = with_classes(wanted, meta.model.num_classes)
        differences = [] if wanted is None else wanted.differences(meta.model)
        if differences:
            raise InputError(f"the wanted model is not the checkpoint's: {'; '.join(differences)}.")
        return params, meta, f"checkpoint {args.source}, step {meta.step}"
    found = load_weights(args.source, wanted, args.seed, any_classes=is_open)
    names = found.label_names
    if names is None:
        names = COCO_NAMES if found.config.num_classes == COCO_CLASSES else {}
    meta = checkpoint_files.Meta(found.config, names, 0, found.extra, found.category_ids, found.max_side)
    return found.params, meta, found.report


def facts_of(source: str, meta: "Meta", names: tuple[str, ...] = ()) -> "Facts":
    """What has been measured with a checkpoint, also by its run: its log has what is newer than the checkpoint."""
    from yolos_jax.training.curves import METRICS, read_lines
    from yolos_jax.weights import recorded_facts

    evaluations = list(meta.extra.get("evaluations", []))
    for line in read_lines(source) if (Path(source) / METRICS).is_file() else []:
        found = {name.removeprefix("val/"): value for name, value in line.items() if name.startswith("val/")}
        evaluations += [found | {"step": line["step"]}] if found else []
    return recorded_facts(source, meta.step, meta.extra | {"evaluations": evaluations}, names)


@clear_errors()
def main() -> None:
    """Converts, and says what was written."""
    parser = Parser(__doc__)
    parser.add_argument("source", metavar="SOURCE", help="file, folder or hub id to read")
    parser.add_argument("--out", required=True, help="new folder to write")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--variant", help="the model's settings: ti, s, s_dwr, b or a published name")
    group.add_argument("--config", help="the model's settings: those of a recipe, a file or a name such as yolos_s")
    parser.add_argument("--to-hf", action="store_true", help="write a folder for transformers")
    parser.add_argument("--seed", type=int, default=0, help="of the parts that a ViT does not have")
    args = parser.parse()
    if args.seed < 0:
        raise InputError(f"--seed is {args.seed}; it must be at least 0.")
    from yolos_jax.model.classifier_config import ClassifierConfig
    from yolos_jax.weights import checkpoints, export_huggingface, sizes_of
    from yolos_jax.weights.classifiers import TIMM_FILE, export_classifier

    (check_empty if args.to_hf else checkpoints.check_free)(args.out)
    params, meta, report = read_source(args)
    if not args.to_hf:
        checkpoints.save(args.out, 0, params, meta)
        print(f"{report}\nwritten: {args.out} (checkpoint, step 0)")
        return
    more = ""
    if isinstance(meta.model, ClassifierConfig):
        from yolos_jax.evaluation.class_evaluator import TOPS

        facts, more = facts_of(args.source, meta, tuple(TOPS)), f"; {TIMM_FILE} has timm's names"
        export_classifier(params, meta, args.out, facts)
    else:
        facts, sizes = facts_of(args.source, meta), sizes_of(meta.extra)
        export_huggingface(params, meta.model, meta.label_names, args.out, meta.category_ids, sizes, facts)
    numbers = ", ".join(f"{name} {value:.4f}" for name, value in list(facts.metrics.items())[:2])
    print(f"{report}\nmodel card: {numbers or 'no evaluation recorded; run eval.py on SOURCE first'}")
    print(f"written: {args.out} (Hugging Face folder{more})")


if __name__ == "__main__":
    main()
