r"""DeiT-Ti, which YOLOS-Ti starts from: 5.7 M parameters, 224 pixels. Published by DeiT: top-1 72.2 on ImageNet-1k.

yolos-pretrain --config deit_ti --workdir runs/deit_ti --config.data.root=data/imagenet
yolos-train --config yolos_ti --workdir runs/ti --config.data.root=data/coco --config.init=runs/deit_ti

The other settings are those of `deit_s`.
"""

from ml_collections import ConfigDict

from yolos_jax.config.recipes import pretraining_recipe


def get_config() -> ConfigDict:
    return pretraining_recipe("ti")
