"""YOLOS-S with detached DET tokens: tokens and positions are not trained; otherwise like `yolos_s`. Paper, table 7.

yolos-convert deit_small_patch16_224.pth --variant s --out runs/deit_s
yolos-train --config yolos_s_detached --config.init=runs/deit_s --workdir runs/s_detached

The positions of the tokens between blocks are frozen as well, so everything that the 100 tokens add to the input is
fixed.
"""

from ml_collections import ConfigDict

from yolos_jax.config.recipes import detection_recipe


def get_config() -> ConfigDict:
    config = detection_recipe("s")
    config.optimizer.freeze = ("det_tokens", "pos_embed.det", "mid_pos_embed.*.det")
    return config
