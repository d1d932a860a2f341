"""YOLOS-Ti without pre-training: 600 epochs from random weights; otherwise as `yolos_ti`. Paper, table 2, "rand. init."

yolos-train --config yolos_ti_scratch --workdir runs/ti_scratch

The initialisation is that of the reference, with small tokens and positions, as in the paper.
--config.init=from_nothing selects the initialisation of this package, which learns faster without pre-training.
"""

from ml_collections import ConfigDict

from yolos_jax.programs.command_line import load_recipe


def get_config() -> ConfigDict:
    config = load_recipe("yolos_ti")
    config.train.epochs = 600
    return config
