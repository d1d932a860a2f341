"""YOLOS-S: 30.7 M parameters, 512x864 position grids, from DeiT-S. Published: AP 36.1 on COCO val2017.

yolos-convert deit_small_patch16_224.pth --variant s --out runs/deit_s
yolos-train --config yolos_s --config.init=runs/deit_s --workdir runs/s

The DeiT-S was trained for 300 epochs. The recipe follows the published training: 150 epochs on 8 GPUs with one image
each. On fewer devices, the batch size remains 8; use --config.train.accumulate if memory is insufficient.
"""

from ml_collections import ConfigDict

from yolos_jax.config.recipes import detection_recipe


def get_config() -> ConfigDict:
    return detection_recipe("s")
