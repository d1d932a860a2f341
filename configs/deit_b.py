r"""DeiT-B, which YOLOS-B starts from: 86.6 M parameters, 224 pixels. Published by DeiT: top-1 81.8 on ImageNet-1k.

yolos-pretrain --config deit_b --workdir runs/deit_b --config.data.root=data/imagenet
yolos-train --config yolos_b --workdir runs/b --config.data.root=data/coco --config.init=runs/deit_b

The other settings are those of `deit_s`. The published YOLOS-B starts from a DeiT that was trained at
384 pixels and distilled from a teacher.
"""

from ml_collections import ConfigDict

from yolos_jax.config.recipes import pretraining_recipe


def get_config() -> ConfigDict:
    return pretraining_recipe("b")
