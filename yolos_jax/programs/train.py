"""Trains a detector, going on from the newest checkpoint of the workdir if there is one.

python train.py --config configs/yolos_s.py --workdir runs/s --config.data.root=data/coco

SIGTERM or Ctrl-C finishes the step, saves and leaves with exit code 143 or 130; the same command goes on.
"""

import sys
from typing import Any

from absl import flags

from yolos_jax.programs.command_line import flags_of_hosts, run_with_config

WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, metrics.jsonl, tensorboard/.", required=True)
ACCEPT = flags.DEFINE_bool("accept_differences", False, "Go on although the recipe or the annotations have changed.")
join_hosts = flags_of_hosts()


def main(config: Any) -> None:
    join_hosts()
    from yolos_jax.training.loop import train

    outcome = train(config, WORKDIR.value, ACCEPT.value)
    if outcome.signal:
        sys.exit(128 + outcome.signal)


def run() -> None:
    """The program."""
    run_with_config(main, __doc__)


if __name__ == "__main__":
    run()
