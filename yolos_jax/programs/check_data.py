"""Looks at a recipe's data before training: what is in it, and everything that is wrong with it.

python -m yolos_jax.programs.check_data --config configs/finetune_custom.py --config.data.root=data/mine

Reads both splits as training and evaluation would and decodes every image (--no-images spares that). Exit code 0:
nothing wrong; 1: problems, a line each; 2: nothing could be read.
"""

import sys
from typing import Any

from yolos_jax.errors import clear_errors
from yolos_jax.programs.command_line import RecipeParser


@clear_errors()
def main() -> None:
    """Prints what is in the recipe's data and what is wrong with it; exit code 1 if anything is."""
    parser = RecipeParser(__doc__)
    spellings = "--no-images", "--noimages", "--nopictures"
    parser.add_argument(*spellings, dest="images", action="store_false", help="do not decode the images")
    args, config = parser.parse_recipe()

    from yolos_jax.data import survey

    problems: list[survey.Problem] = []
    try:
        look(config, args.images, problems)
    finally:
        problems = list(dict.fromkeys(problems))  # splits that share a file share its problems
        for problem in problems:
            print(f"problem: {problem.sentence}")
    print(survey.verdict(problems))
    if problems:
        sys.exit(1)


def look(config: Any, images: bool, problems: list) -> None:
    """Prints what is in both splits; what is wrong goes to `problems`."""
    from yolos_jax import recipe
    from yolos_jax.data import survey
    from yolos_jax.data.rules import Known

    train = survey.read_split("train", lambda complain: recipe.source_of(config, "train", complain=complain), problems)
    source = train.source
    labels = source.category_ids, source.num_classes
    known = Known(source.label_names, source.origin, False, source.turning.decided)  # `category_problems` names each
    val = survey.read_split("val", lambda complain: recipe.source_of(config, "val", *labels, complain, known), problems)
    problems += survey.nothing_problems(train) + survey.category_problems(train, val)
    model = recipe.model_of(config, train.source.num_classes)
    recipe.geometry_of(config, model)  # refuses what the model cannot evaluate
    plan = survey.make_plan(train, lambda sizes: recipe.plan_of(config, model, sizes), problems)
    plan_lines = survey.plan_lines(plan) if plan else []
    print("\n".join([*survey.overview(train), *plan_lines, "", *survey.overview(val), ""]))
    for note in survey.notes([train, val], model.det_tokens):
        print(f"note: {note}")
    if images:
        problems += survey.image_problems([train, val])
        for note in survey.dark_notes([train, val]):
            print(f"note: {note}")


if __name__ == "__main__":
    main()
