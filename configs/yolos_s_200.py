"""YOLOS-S from a DeiT-S trained for 200 epochs; otherwise like `yolos_s`. Published: AP 36.1 on COCO val2017.

yolos-convert deit_small_200_epochs.pth --variant s --out runs/deit_s_200
yolos-train --config yolos_s_200 --config.init=runs/deit_s_200 --workdir runs/s_200

The recipe follows the published training: 150 epochs on 8 GPUs with one image each. Only the starting weights differ
from `yolos_s`.
"""

from ml_collections import ConfigDict

from yolos_jax.config.recipes import detection_recipe


def get_config() -> ConfigDict:
    return detection_recipe("s")
