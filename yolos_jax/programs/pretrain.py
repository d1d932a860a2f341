"""Pre-trains an image classifier that a detector can start from, or resumes from the newest checkpoint in the workdir.

yolos-pretrain --config deit_s --workdir runs/deit_s --config.data.root=data/imagenet

On SIGTERM or Ctrl-C, it finishes the step, saves a checkpoint and exits with code 143 or 130. Run the same command to
resume.
"""

from yolos_jax.config import recipes
from yolos_jax.programs.train import run_training


def main() -> None:
    """Runs the program."""
    run_training(__doc__, recipes.CLASSIFICATION)


if __name__ == "__main__":
    main()
