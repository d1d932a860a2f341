"""YOLOS-Ti from a distilled DeiT; otherwise like `yolos_ti`. Paper, table 2, the row with DeiT's distillation.

yolos-convert timm/deit_tiny_distilled_patch16_224.fb_in1k --variant ti --out runs/deit_ti_distilled
yolos-train --config yolos_ti_distilled --config.init=runs/deit_ti_distilled --workdir runs/ti_distilled

Only the starting weights differ. As in the reference, the CLS token uses the position of the distillation token.
"""

from ml_collections import ConfigDict

from yolos_jax.programs.command_line import load_recipe


def get_config() -> ConfigDict:
    return load_recipe("yolos_ti")
