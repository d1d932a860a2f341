"""Converts weights of YOLOS (reference or Hugging Face) or of a ViT to a checkpoint, or a checkpoint to Hugging Face.

yolos-convert SOURCE --out DIR                  a checkpoint of ours
yolos-convert SOURCE --out DIR --to-hf          a folder for transformers; SOURCE may be a checkpoint of ours

SOURCE is a .safetensors or .pth file, a Hugging Face folder, or a model on the hub (hustvl/yolos-small,
org/name@revision): YOLOS, DeiT (timm's or transformers'), DINO, MoCo v3 or MAE. With --to-hf it may be a checkpoint
of yolos-pretrain, which becomes a ViT or DeiT of transformers, with a second file that has timm's names. The model's
settings come from SOURCE if it has any; otherwise --variant or --config gives them. If both exist, they must agree.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from yolos_jax.address import copied
from yolos_jax.config.reader import read_recipe
from yolos_jax.config.recipes import OWN, DetectionConfig
from yolos_jax.errors import InputError, check_empty, clear_errors
from yolos_jax.programs.command_line import Parser, load_recipe

if TYPE_CHECKING:
    from yolos_jax.model.config import YolosConfig
    from yolos_jax.training.checkpoint_files import Meta
    from yolos_jax.weights.model_card import Provenance


def wanted_model(args: argparse.Namespace) -> "tuple[YolosConfig | None, bool]":
    """(the model given by the flags, if any; whether its number of classes is open)."""
    from yolos_jax.model.config import COCO_CLASSES
    from yolos_jax.tasks import recipe
    from yolos_jax.weights import variant_of

    if args.variant is not None:
        return variant_of(args.variant), False
    if args.config is None:
        return None, False
    config = read_recipe(load_recipe(args.config), DetectionConfig)
    if config.model.from_init != OWN:
        return None, False
    return recipe.model_of(config, COCO_CLASSES), config.model.num_classes == 0


def from_checkpoint(source: str, wanted: "YolosConfig | None", any_classes: bool) -> "tuple[dict, Meta]":
    """The parameters and the meta of a checkpoint of ours; `InputError` if it is not the wanted model."""
    from yolos_jax.model.classifier_config import ClassifierConfig
    from yolos_jax.weights import checkpoints, with_classes

    params, meta = checkpoints.load_any(source)
    if wanted is None:
        return params, meta
    if isinstance(meta.model, ClassifierConfig):
        raise InputError(f"{source} is an image classifier with its own settings; omit --variant, --config.")
    if any_classes:
        wanted = with_classes(wanted, meta.model.num_classes)
    differences = wanted.differences(meta.model)
    if differences:
        raise InputError(f"the requested model is not the checkpoint's: {'; '.join(differences)}.")
    return params, meta


def read_weights(args: argparse.Namespace) -> "tuple[dict, Meta, object]":
    """(parameters, metadata, a report to print) of SOURCE."""
    from yolos_jax.datasets.coco_names import COCO_NAMES
    from yolos_jax.model.config import COCO_CLASSES
    from yolos_jax.training import checkpoint_files
    from yolos_jax.weights import load_weights

    wanted, any_classes = wanted_model(args)
    if checkpoint_files.steps(copied(args.source)):
        if not args.to_hf:
            raise InputError(f"{args.source} is already a checkpoint of ours; add --to-hf to export it.")
        params, meta = from_checkpoint(args.source, wanted, any_classes)
        return params, meta, f"checkpoint {args.source}, step {meta.step}"
    found = load_weights(args.source, wanted, args.seed, any_classes)
    default_names = COCO_NAMES if found.config.num_classes == COCO_CLASSES else {}
    return found.params, found.meta(default_names), found.report


def provenance_of(source: str, meta: "Meta", names: Sequence[str]) -> "Provenance":
    """The provenance of a checkpoint, also from its run's log, which may be newer than the checkpoint."""
    from yolos_jax.tasks.pictures.curves import read_lines
    from yolos_jax.training.metrics import METRICS
    from yolos_jax.weights import recorded_provenance

    evaluations = list(meta.extra.get("evaluations", []))
    for line in read_lines(source) if (Path(source) / METRICS).is_file() else []:
        found = {name.removeprefix("val/"): value for name, value in line.items() if name.startswith("val/")}
        if found:
            evaluations.append(found | {"step": line["step"]})
    return recorded_provenance(source, meta.step, meta.extra | {"evaluations": evaluations}, names)


def export(args: argparse.Namespace, params: dict, meta: "Meta") -> None:
    """Writes a folder for transformers, and prints its content."""
    from yolos_jax.model.classifier_config import ClassifierConfig
    from yolos_jax.weights import export_huggingface, sizes_of
    from yolos_jax.weights.folder import TIMM_FILE, export_classifier

    more = ""
    if isinstance(meta.model, ClassifierConfig):
        from yolos_jax.tasks.classification.evaluator import TOPS

        provenance, more = provenance_of(args.source, meta, tuple(TOPS)), f"; {TIMM_FILE} has timm's names"
        export_classifier(params, meta, args.out, provenance)
    else:
        from yolos_jax.evaluation.coco_metrics import NAMES  # brings pycocotools along

        provenance, sizes = provenance_of(args.source, meta, NAMES), sizes_of(meta.extra)
        export_huggingface(params, meta.model, meta.label_names, args.out, meta.category_ids, sizes, provenance)
    numbers = ", ".join(f"{name} {value:.4f}" for name, value in list(provenance.metrics.items())[:2])
    print(f"model card: {numbers or 'no evaluation recorded; run yolos-eval on SOURCE first'}")
    print(f"written: {args.out} (Hugging Face folder{more})")


@clear_errors()
def main() -> None:
    """Converts, and prints what was written."""
    parser = Parser(__doc__)
    parser.addresses = ("source",)
    parser.add_argument("source", metavar="SOURCE", help="file, folder or hub id to read")
    parser.add_argument("--out", required=True, help="new folder to write")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--variant", help="the model's settings: ti, s, s_dwr, b or a published name")
    group.add_argument("--config", help="the model's settings, from a recipe: a file or a name such as yolos_s")
    parser.add_argument("--to-hf", action="store_true", help="write a folder for transformers")
    parser.add_argument("--seed", type=int, default=0, help="seed for the parts that a ViT does not have (default 0)")
    args = parser.parse()
    if args.seed < 0:
        raise InputError(f"--seed is {args.seed}; it must be at least 0.")
    if args.to_hf:
        check_empty(args.out)
        params, meta, report = read_weights(args)
        print(report)
        export(args, params, meta)
        return
    from yolos_jax.weights import checkpoints

    checkpoints.check_no_weights(args.out)
    params, meta, report = read_weights(args)
    checkpoints.save(args.out, 0, params, meta)
    print(f"{report}\nwritten: {args.out} (checkpoint, step 0)")


if __name__ == "__main__":
    main()
