"""Trains a detector, or resumes from the newest checkpoint in the workdir.

yolos-train --config yolos_s --workdir runs/s --config.data.root=data/coco

On SIGTERM or Ctrl-C, it finishes the step, saves a checkpoint and exits with code 143 or 130. Run the same command to
resume.
"""

import sys

import yolos_jax
from yolos_jax.config import recipes
from yolos_jax.distributed import launch
from yolos_jax.errors import check_spelling, clear_errors
from yolos_jax.programs.command_line import RecipeParser


def main() -> None:
    """Runs the program."""
    run_training(__doc__, recipes.DETECTION)


@clear_errors()
def run_training(description: str | None, task: str) -> None:
    """Runs the program for a task: `yolos-train` for detection, `yolos-pretrain` for classification."""
    parser = RecipeParser(description, (task,))
    parser.addresses = ("workdir",)
    text = "folder, or address such as gs://bucket/run, for checkpoints, metrics.jsonl and tensorboard/"
    parser.add_argument("--workdir", required=True, help=text)
    text = "resume even if the recipe or the annotations have changed"
    parser.add_argument("--accept_differences", action="store_true", help=text)
    parser.add_process_flags()
    args, _ = parser.parse_recipe()
    with launch.guarded(), clear_errors():
        check_spelling(args.workdir)
        launch.join(args.coordinator, args.processes, args.process, args.distributed)
        train = yolos_jax.pretrain if task == recipes.CLASSIFICATION else yolos_jax.train
        outcome = train(args.recipe, args.workdir, args.accept_differences)
        if outcome.signal:
            sys.exit(128 + outcome.signal)


if __name__ == "__main__":
    main()
