r"""The classifier that YOLOS-S (compound dwr) starts from: 19 blocks of width 240, 272 pixels. Paper, table 4.

yolos-pretrain --config deit_s_compound --workdir runs/deit_s_compound --config.data.root=data/imagenet
yolos-train --config yolos_s_compound --workdir runs/s_compound --config.data.root=data/coco \
    --config.init=runs/deit_s_compound

The other settings are those of `deit_s`.
"""

from ml_collections import ConfigDict

from yolos_jax.config.recipes import pretraining_recipe


def get_config() -> ConfigDict:
    config = pretraining_recipe("s")
    config.model.update(depth=19, width=240, heads=6, image_size=272)
    return config
