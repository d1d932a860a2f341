"""YOLOS-S without pre-training: 250 epochs; otherwise like `yolos_s`. Paper, table 2, "rand. init."

yolos-train --config yolos_s_scratch --workdir runs/s_scratch

The random initialisation is that of the reference and the paper, with small tokens and positions.
--config.init=from_nothing selects the initialisation of this package, which learns faster without pre-training.
"""

from ml_collections import ConfigDict

from yolos_jax.config.recipes import detection_recipe


def get_config() -> ConfigDict:
    config = detection_recipe("s")
    config.train.epochs = 250
    return config
