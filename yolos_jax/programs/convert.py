"""Converts YOLOS weights (reference or Hugging Face) or ViT weights to a checkpoint, or a checkpoint to Hugging Face.

yolos-convert SOURCE --out DIR                  writes a checkpoint
yolos-convert SOURCE --out DIR --to-hf          writes a folder for transformers; SOURCE may be a checkpoint
yolos-convert RUN --push USER/NAME              uploads that folder to the Hugging Face hub, with curves and examples

SOURCE is a .safetensors or .pth file, a Hugging Face folder, or a model on the hub (hustvl/yolos-small,
org/name@revision), with weights of YOLOS, DeiT (from timm or transformers), DINO, MoCo v3 or MAE. With --to-hf it may
be a checkpoint written by yolos-pretrain, which is exported as a ViT or DeiT for transformers, plus a file with timm's
parameter names. The model's settings are read from SOURCE if it contains them, and otherwise from --variant or
--config. If both exist, they must agree.
"""

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from yolos_jax.address import copied
from yolos_jax.config.reader import read_recipe
from yolos_jax.config.recipes import OWN, DetectionConfig
from yolos_jax.errors import InputError, check_empty, clear_errors
from yolos_jax.programs.command_line import Parser, load_recipe, recorded_recipe

if TYPE_CHECKING:
    from PIL.Image import Image

    from yolos_jax.model.config import YolosConfig
    from yolos_jax.training.checkpoint_files import Meta
    from yolos_jax.weights.model_card import Presentation, Provenance


def wanted_model(args: argparse.Namespace) -> "tuple[YolosConfig | None, bool]":
    """Returns the model specified by the flags, if any, and whether its number of classes is left open."""
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
    """Loads the parameters and metadata of a checkpoint; `InputError` if its model differs from `wanted`."""
    from yolos_jax.model.classifier_config import ClassifierConfig
    from yolos_jax.weights import checkpoints, with_classes

    params, meta = checkpoints.load_any(source)
    if wanted is None:
        return params, meta
    if isinstance(meta.model, ClassifierConfig):
        raise InputError(f"{source} is an image classifier with its own settings; omit --variant and --config.")
    if any_classes:
        wanted = with_classes(wanted, meta.model.num_classes)
    differences = wanted.differences(meta.model)
    if differences:
        raise InputError(f"the requested model differs from the checkpoint's: {'; '.join(differences)}.")
    return params, meta


def read_weights(args: argparse.Namespace) -> "tuple[dict, Meta, object]":
    """Returns the parameters and metadata of SOURCE, and a report to print."""
    from yolos_jax.datasets.coco_names import COCO_NAMES
    from yolos_jax.model.config import COCO_CLASSES
    from yolos_jax.training import checkpoint_files
    from yolos_jax.weights import load_weights

    wanted, any_classes = wanted_model(args)
    if checkpoint_files.steps(copied(args.source)):
        if not args.to_hf and not args.push:
            raise InputError(f"{args.source} is already a checkpoint; add --to-hf to export it.")
        params, meta = from_checkpoint(args.source, wanted, any_classes)
        return params, meta, f"checkpoint {args.source}, step {meta.step}"
    found = load_weights(args.source, wanted, args.seed, any_classes)
    default_names = COCO_NAMES if found.config.num_classes == COCO_CLASSES else {}
    return found.params, found.meta(default_names), found.report


def provenance_of(source: str, meta: "Meta", names: Sequence[str]) -> "Provenance":
    """The provenance of a checkpoint, with evaluations from its run's log, which may be newer than the checkpoint."""
    from yolos_jax.tasks.pictures.curves import read_lines
    from yolos_jax.training.metrics import METRICS
    from yolos_jax.weights import recorded_provenance

    evaluations = list(meta.extra.get("evaluations", []))
    for line in read_lines(source) if (Path(source) / METRICS).is_file() else []:
        found = {name.removeprefix("val/"): value for name, value in line.items() if name.startswith("val/")}
        if found:
            evaluations.append(found | {"step": line["step"]})
    return recorded_provenance(source, meta.step, meta.extra | {"evaluations": evaluations}, names)


def export(
    args: argparse.Namespace, params: dict, meta: "Meta", out: str, presentation: "Presentation | None" = None
) -> None:
    """Writes a folder for transformers, and prints its name and the metrics in its model card."""
    from yolos_jax.model.classifier_config import ClassifierConfig
    from yolos_jax.weights import export_huggingface, sizes_of
    from yolos_jax.weights.folder import TIMM_FILE, export_classifier
    from yolos_jax.weights.model_card import Presentation

    presentation = presentation or Presentation()
    more = ""
    if isinstance(meta.model, ClassifierConfig):
        from yolos_jax.tasks.classification.evaluator import TOPS

        provenance, more = provenance_of(args.source, meta, tuple(TOPS)), f"; {TIMM_FILE} has timm's parameter names"
        export_classifier(params, meta, out, provenance, presentation)
    else:
        from yolos_jax.evaluation.coco_metrics import NAMES  # imports pycocotools

        provenance, sizes = provenance_of(args.source, meta, NAMES), sizes_of(meta.extra)
        names, ids = meta.label_names, meta.category_ids
        export_huggingface(params, meta.model, names, out, ids, sizes, provenance, presentation)
    numbers = ", ".join(f"{name} {value:.4f}" for name, value in list(provenance.metrics.items())[:2])
    print(f"model card: {numbers or 'no evaluation recorded; run yolos-eval on SOURCE first'}")
    if args.out:
        print(f"written: {args.out} (Hugging Face folder{more})")


def presentation_of(args: argparse.Namespace, params: dict, meta: "Meta") -> "Presentation":
    """The content of a shared model's card, with images from its run."""
    from yolos_jax.images.reading import read_rgb
    from yolos_jax.inference.detector import Detector
    from yolos_jax.model.classifier_config import ClassifierConfig
    from yolos_jax.tools import card_pictures
    from yolos_jax.weights.model_card import EXAMPLE, Presentation

    is_detector = not isinstance(meta.model, ClassifierConfig)
    of_data = is_detector and not args.example and not args.no_examples
    files = card_pictures.run_pictures(args.source, meta.step, of_data) if "config" in meta.extra else {}
    card = Presentation(args.push, args.license, files)
    if not args.example and not of_data:
        return card
    images: Iterable[Image] = validation_images(args, meta) if of_data else [read_rgb(args.example)]
    if not is_detector:
        return card._replace(pictures=files | {EXAMPLE: card_pictures.jpeg(next(iter(images)))})
    examples, threshold = card_pictures.example_pictures(images, Detector(params, meta))
    return card._replace(pictures=files | examples, threshold=threshold)


def validation_images(args: argparse.Namespace, meta: "Meta") -> "Iterator[Image]":
    """Yields images from the validation split of SOURCE's run; prints a note if they cannot be read."""
    from yolos_jax.tools import card_pictures

    try:
        if "config" not in meta.extra:
            raise InputError(f"{args.source} was not written by a training run.")
        yield from card_pictures.validation_images(recorded_recipe(args.source), meta, args.source)
    except InputError as error:
        why = str(error).split("; ")[0].rstrip(".")  # without the suggested fix, which applies to other programs
        print(f"note: the card has no example image ({why}); add one with --example IMAGE")


def share(args: argparse.Namespace) -> None:
    """Exports SOURCE and uploads it to the hub; first prints what others will see, and finally the address."""
    from yolos_jax.weights import sharing
    from yolos_jax.weights.hub import hub_address

    there = sharing.find_repository(args.push, args.private, args.replace)
    if args.out:
        check_empty(args.out)
    params, meta, report = read_weights(args)
    print(report)
    card = presentation_of(args, params, meta)
    images = [name for name in card.pictures if name.endswith(".jpg")]
    if images and not args.example:
        print(f"note: the upload includes images from your data: {', '.join(images)}; use --no-examples to omit them")
    kind = "private" if there.private else "public"
    print(f"uploading to the {kind} repository {hub_address(args.push)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="yolos-push-") as temporary:
        folder = args.out or temporary
        export(args, params, meta, folder, card)
        done = sharing.push_folder(folder, args.push, args.private, args.replace)
    if done.removed:
        print(f"removed files that are not in this upload: {', '.join(done.removed)}")
    if done.commit == done.before:
        print("nothing has changed since the last upload")
    elif done.before:
        print(f"previous commit: {done.address}/tree/{done.before}")
    print(f"shared: {done.address} (commit {done.commit})")


def check_flags(args: argparse.Namespace) -> None:
    """Raises `InputError` for missing or conflicting flags."""
    if args.seed < 0:
        raise InputError(f"--seed is {args.seed}; it must be at least 0.")
    if args.push:
        if args.example and args.no_examples:
            raise InputError("--example and --no-examples contradict each other; omit one.")
        return
    for name in ("private", "replace", "license", "example", "no_examples"):
        if getattr(args, name):
            raise InputError(f"--{name.replace('_', '-')} only applies to uploads; add --push USER/NAME.")
    if not args.out:
        raise InputError("no output was specified; use --out DIR or --push USER/NAME.")


@clear_errors()
def main() -> None:
    """Runs the conversion, and prints what was written."""
    parser = Parser(__doc__)
    parser.addresses = ("source",)
    parser.others = (*parser.others, "push")  # invalid repository names are reported with a specific message
    parser.add_argument("source", metavar="SOURCE", help="file, folder or hub id to read")
    parser.add_argument("--out", help="folder to create; with --push, a temporary folder if omitted")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--variant", help="model variant: ti, s, s_dwr, b or a published name")
    group.add_argument("--config", help="recipe with the model's settings: a file, or a name such as yolos_s")
    parser.add_argument("--to-hf", action="store_true", help="write a folder for transformers")
    parser.add_argument("--seed", type=int, default=0, help="seed for initialising parts that a ViT lacks (default 0)")
    hub = parser.add_argument_group("uploading to the Hugging Face hub")
    hub.add_argument("--push", metavar="USER/NAME", help="export as with --to-hf, and upload the folder")
    hub.add_argument(
        "--private", action="store_true", help="use a private repository, visible only to you and your organisation"
    )
    hub.add_argument("--replace", action="store_true", help="replace files in a repository that is not empty")
    hub.add_argument("--license", default="", metavar="NAME", help="license of the weights, such as apache-2.0")
    text = "example image for the model card, instead of images from the run's validation split"
    hub.add_argument("--example", default="", metavar="IMAGE", help=text)
    hub.add_argument("--no-examples", action="store_true", help="do not upload images from the validation split")
    args = parser.parse()
    check_flags(args)
    if args.push:
        share(args)
        return
    if args.to_hf:
        check_empty(args.out)
        params, meta, report = read_weights(args)
        print(report)
        export(args, params, meta, args.out)
        return
    from yolos_jax.weights import checkpoints

    checkpoints.check_no_weights(args.out)
    params, meta, report = read_weights(args)
    checkpoints.save(args.out, 0, params, meta)
    print(f"{report}\nwritten: {args.out} (checkpoint, step 0)")


if __name__ == "__main__":
    main()
