"""Checks a recipe's data before training: summarises it and lists all problems.

yolos-check-data --config finetune_custom --config.data.root=data/mine

Reads both splits the way training and evaluation do, and decodes every image unless --no-images is given.
Exit code 0 means no problems, 1 means problems (printed one per line), and 2 means that the data could not be read.
--show 16 draws 16 augmented training images with their boxes, as the model will see them.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from yolos_jax.config.recipes import DetectionConfig
from yolos_jax.datasets.splits import MissingSplit
from yolos_jax.errors import clear_errors, make_folder
from yolos_jax.programs.command_line import RecipeParser


@clear_errors()
def main() -> None:
    """Prints a summary of the recipe's data and its problems; exits with code 1 if there are any."""
    parser = RecipeParser(__doc__)
    spellings = "--no-images", "--noimages", "--nopictures"
    parser.add_argument(*spellings, dest="images", action="store_false", help="do not decode the images")
    text = "draw N augmented training images with their boxes, as the model sees them"
    parser.add_argument("--show", type=int, default=0, metavar="N", help=text)
    parser.add_argument(
        "--show-to", default="check_data.png", metavar="FILE", help="output file of --show (default check_data.png)"
    )
    args, config = parser.parse_recipe()
    if args.show < 0 or Path(args.show_to).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        parser.error("--show must be at least 0, and --show-to must end with .png, .jpg or .jpeg")
    if args.show:
        make_folder(Path(args.show_to).parent)

    from yolos_jax.tasks.architecture import settle
    from yolos_jax.tools import survey

    if config.init:  # the architecture, which affects how images are resized, may have to be read from the weights
        config = settle(args.recipe)
    problems: list[survey.Problem] = []
    try:
        look(config, args, problems)
    finally:
        problems = list(dict.fromkeys(problems))  # splits that share a file report the same problems
        for problem in problems:
            print(f"problem: {problem.sentence}")
    print(survey.verdict(problems))
    if problems:
        sys.exit(1)


def look(config: DetectionConfig, args: argparse.Namespace, problems: list) -> None:
    """Prints a summary of the splits and appends problems to `problems`."""
    from yolos_jax.datasets.settings import Settled
    from yolos_jax.tasks import recipe
    from yolos_jax.tasks.base import beside_training
    from yolos_jax.tasks.detection import font_notes
    from yolos_jax.tasks.rare_classes import repeats_of
    from yolos_jax.tools import survey

    train = survey.survey_split(
        "train", lambda complain: recipe.source_of(config, "train", complain=complain), problems
    )
    nothing = train.source.nothing_to_train_on()
    if nothing:
        problems.append(survey.Problem(train.source.origin, f"there are no boxes to train on: {nothing}."))
    model = recipe.model_of(config, train.source.num_classes)
    recipe.geometry_of(config, model)  # raises for data that the model cannot be evaluated on
    repeats = repeats_of(train.source.examples, config.data.repeat_threshold)
    plan = survey.make_plan(train, lambda sizes: recipe.plan_of(config, model, sizes, repeats), problems)
    splits, notes = [train], []
    source = train.source
    labels = source.category_ids, source.num_classes
    # Differing categories raise no error here, because `category_problems` reports each of them.
    known = Settled(label_names=source.label_names, by=source.origin, refuse=False, exif=source.exif.decided)
    try:
        opened = partial(recipe.source_of, config, "val", *labels, known=known)
        read = survey.survey_split("val", lambda to: beside_training(lambda: opened(complain=to)), problems)
        splits.append(read)
        problems += survey.category_problems(*splits)
    except MissingSplit as error:
        if config.eval.every_epochs:
            raise
        notes = [f"{str(error).split('. Set --config')[0]}; eval.every_epochs is 0, so it is not needed"]
    for split in splits:
        print("\n".join([*survey.overview(split), *(survey.plan_lines(plan) if plan and split is train else []), ""]))
    for note in notes + survey.notes(splits, model.det_tokens):
        print(f"note: {note}")
    if args.show:
        for note in font_notes(source.label_names, config.eval):
            print(f"note: {note}")
        show(config, model, train.source, args.show, args.show_to)
    if args.images:
        problems += survey.image_problems(splits)
        for note in survey.dark_notes(splits):
            print(f"note: {note}")


def show(config: DetectionConfig, model: Any, source: Any, count: int, path: str) -> None:
    """Writes a contact sheet of randomly chosen training images, as the model sees them in the first epoch."""
    from yolos_jax.images.reading import UnreadableImage
    from yolos_jax.inference.contact_sheet import contact_sheet
    from yolos_jax.inference.drawing import draw_boxes
    from yolos_jax.tasks import recipe

    pipeline = recipe.augmentation_of(config, model)
    views = pipeline.views(source.examples.sizes, config.seed, 0)
    drawn: list[Image.Image] = []
    for index in np.random.default_rng(config.seed).permutation(len(source.examples)).tolist():
        if len(drawn) == count:
            break
        example, view = source.examples[index], views.of(index)
        try:
            pixels = pipeline.pixels(source.read(example), view)
        except UnreadableImage:
            continue
        seen = pipeline.boxes(example, view)
        texts = [source.label_names.get(label, str(label)) for label in seen.labels.tolist()]
        drawn.append(draw_boxes(Image.fromarray(pixels), seen.boxes, seen.labels, texts, config.eval.font))
    if drawn:
        contact_sheet(drawn).save(path)
        print(f"{len(drawn)} training images with their boxes: {path}")


if __name__ == "__main__":
    main()
