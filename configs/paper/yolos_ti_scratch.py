"""YOLOS-Ti without pre-training: 600 epochs; otherwise like `yolos_ti`. Paper, table 2, "rand. init."

yolos-train --config yolos_ti_scratch --workdir runs/ti_scratch

The random initialisation is that of the reference and the paper, with small tokens and positions.
--config.init=from_nothing selects the initialisation of this package, which learns faster without pre-training.
"""

from ml_collections import ConfigDict

from yolos_jax.programs.command_line import load_recipe


def get_config() -> ConfigDict:
    config = load_recipe("yolos_ti")
    config.train.epochs = 600
    return config
