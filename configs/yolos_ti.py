"""YOLOS-Ti: 6.5 M parameters, 800x1333 position grid. Published: 300 epochs, AP 28.7 on COCO val2017.

yolos-convert deit_tiny_patch16_224.pth --variant ti --out runs/deit_ti
yolos-train --config yolos_ti --config.init=runs/deit_ti --workdir runs/ti

The recipe follows the published training: 8 GPUs with two images each. Training on fewer devices produces the same
result; use --config.train.accumulate=2 (or more) if memory is insufficient.
"""

from ml_collections import ConfigDict

from yolos_jax.config.recipes import detection_recipe


def get_config() -> ConfigDict:
    config = detection_recipe("ti")
    config.data.update(short_side=512, scales=tuple(range(256, 609, 16)), buckets=16)
    config.train.update(batch_size=16, images_per_replica=2, epochs=300)
    config.optimizer.learning_rate = 5e-5
    return config
