"""Pre-trains an image classifier that a detector can start from, going on from the workdir's newest checkpoint.

yolos-pretrain --config deit_s --workdir runs/deit_s --config.data.root=data/imagenet

SIGTERM or Ctrl-C finishes the step, saves and leaves with exit code 143 or 130; the same command goes on.
"""

from yolos_jax.config import recipes
from yolos_jax.programs.train import run_training


def main() -> None:
    """Trains as the command line says."""
    run_training(__doc__, recipes.CLASSIFICATION)


if __name__ == "__main__":
    main()
