r"""DeiT-S, which YOLOS-S starts from: 22.1 M parameters, 224 pixels. Published by DeiT: top-1 79.8 on ImageNet-1k.

yolos-pretrain --config deit_s --workdir runs/deit_s --config.data.root=data/imagenet
yolos-train --config yolos_s --workdir runs/s --config.data.root=data/coco --config.init=runs/deit_s

Trains for 300 epochs with batches of 1024. The published model used repeated augmentation
(--config.augment.repeats=3) and a moving average (--config.train.ema=0.99996).
"""

from ml_collections import ConfigDict

from yolos_jax.config.recipes import pretraining_recipe


def get_config() -> ConfigDict:
    return pretraining_recipe("s")
