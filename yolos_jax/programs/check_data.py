"""Looks at a recipe's data before training: what is in it, and everything that is wrong with it.

python -m yolos_jax.programs.check_data --config configs/finetune_custom.py --config.data.root=data/mine

Reads both splits as training and evaluation would and decodes every image (--no-images spares that).
Exit code 0: nothing wrong; 1: problems, a line each; 2: nothing could be read.
"""

import argparse
import sys
from typing import Any

from yolos_jax.errors import InputError, clear_errors
from yolos_jax.programs.command_line import RecipeParser


def parse() -> tuple[argparse.Namespace, Any]:
    parser = RecipeParser(__doc__)
    spellings = "--no-images", "--noimages", "--nopictures"
    parser.add_argument(*spellings, dest="images", action="store_false", help="do not decode the images")
    return parser.parse_recipe()


def main() -> None:
    """The program."""
    args, config = parse()
    with clear_errors():
        check(config, args.images)


def check(config: Any, images: bool) -> None:
    """Prints what is in the recipe's data and what is wrong with it; exit code 1 if anything is."""
    from yolos_jax.data import survey

    problems: list[survey.Problem] = []
    try:
        look(config, images, problems)
    except InputError:
        report(problems)
        raise
    problems = list(dict.fromkeys(problems))  # splits that share a file share its problems
    report(problems)
    print(survey.verdict(problems))
    if problems:
        sys.exit(1)


def look(config: Any, images: bool, problems: list) -> None:
    """Prints what is in both splits; what is wrong goes to `problems`."""
    from yolos_jax import recipe
    from yolos_jax.data import survey

    train = survey.read_split("train", lambda complain: recipe.source_of(config, "train", complain=complain), problems)
    labels = train.source.category_ids, train.source.num_classes
    val = survey.read_split("val", lambda complain: recipe.source_of(config, "val", *labels, complain), problems)
    problems += survey.category_problems(train, val)
    model = recipe.model_of(config, train.source.num_classes)
    recipe.geometry_of(config, model)  # refuses what the model cannot evaluate
    plan = survey.make_plan(train, lambda sizes: recipe.plan_of(config, model, sizes), problems)
    print(
        "\n".join([*survey.overview(train), *(survey.plan_lines(plan) if plan else []), "", *survey.overview(val), ""])
    )
    for sentence in survey.notes([train, val], model.det_tokens):
        print(f"note: {sentence}")
    if images:
        problems += survey.image_problems([train, val])


def report(problems: list) -> None:
    """Prints problems, a line each."""
    for problem in problems:
        print(f"problem: {problem.sentence}")


if __name__ == "__main__":
    main()
