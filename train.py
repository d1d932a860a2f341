"""Trains a detector.

python train.py --config configs/yolos_s.py --workdir runs/s --config.data.root=data/coco
"""

from absl import flags

from yolos_jax.cli import run_with_config

WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the checkpoint and metrics.jsonl.", required=True)


def main(config) -> None:
    from yolos_jax.training.loop import train

    train(config, WORKDIR.value)


if __name__ == "__main__":
    run_with_config(main, __doc__)
