r"""The classifier that YOLOS-S (dWr) starts from: narrower and deeper than DeiT-S, 240 pixels.

yolos-pretrain --config deit_s_dwr --workdir runs/deit_s_dwr --config.data.root=data/imagenet
yolos-train --config yolos_s_dwr --workdir runs/s_dwr --config.data.root=data/coco \
    --config.init=runs/deit_s_dwr

The other settings are those of `deit_s`.
"""

from ml_collections import ConfigDict

from yolos_jax.config.recipes import pretraining_recipe


def get_config() -> ConfigDict:
    return pretraining_recipe("s_dwr")
