"""YOLOS-S scaled from Ti in depth, width and resolution ("dwr"): 19 blocks of width 240. Paper, table 4.

yolos-convert deit_small_compound.pth --config yolos_s_compound --out runs/deit_s_compound
yolos-train --config yolos_s_compound --config.init=runs/deit_s_compound --workdir runs/s_compound

It starts from a DeiT of the same depth and width, pre-trained at 272 pixels. As far as we know, its weights are not
public. `yolos_s_dwr` is the fast scaling of the paper ("dWr"). The other settings and the position grids are those of
`yolos_s`: 22.0 M parameters.
"""

from ml_collections import ConfigDict

from yolos_jax.config.recipes import detection_recipe


def get_config() -> ConfigDict:
    config = detection_recipe("s")
    config.model.update(depth=19, width=240, heads=6)
    return config
