"""YOLOS-S (dWr): 27.6 M parameters, narrower and deeper than S. Published: AP 37.6 on COCO val2017.

yolos-convert deit_small_dwr.pth --variant s_dwr --out runs/deit_s_dwr
yolos-train --config yolos_s_dwr --config.init=runs/deit_s_dwr --workdir runs/s_dwr

The recipe follows the published training: 150 epochs on 8 GPUs with one image each, starting from a DeiT with the same
depth and width, trained at 240 pixels.
"""

from ml_collections import ConfigDict

from yolos_jax.config.recipes import detection_recipe


def get_config() -> ConfigDict:
    return detection_recipe("s_dwr")
