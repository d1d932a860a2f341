"""YOLOS-S from a distilled DeiT; otherwise like `yolos_s`. Paper, table 2, the row with DeiT's distillation.

yolos-convert timm/deit_small_distilled_patch16_224.fb_in1k --variant s --out runs/deit_s_distilled
yolos-train --config yolos_s_distilled --config.init=runs/deit_s_distilled --workdir runs/s_distilled

Only the starting weights differ. As in the reference, the CLS token uses the position of the distillation token.
"""

from ml_collections import ConfigDict

from yolos_jax.config.recipes import detection_recipe


def get_config() -> ConfigDict:
    return detection_recipe("s")
