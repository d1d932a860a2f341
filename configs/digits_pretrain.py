r"""A micro classifier of single handwritten digits, as a starting point for the detector of `configs/digits.py`.

python -m yolos_jax.datasets.single_digits --out data/single_digits
yolos-pretrain --config digits_pretrain --workdir runs/digits_pretrain
yolos-train --config digits --workdir runs/digits --config.init=runs/digits_pretrain

Trains in a few minutes on two CPU cores: 32x32-pixel images, 8x8 patches, 8,000 training and 360 validation
images, with the same train/validation split of the scans as the `digits` dataset.
"""

from ml_collections import ConfigDict

from yolos_jax.config.recipes import pretraining_recipe


def get_config() -> ConfigDict:
    config = pretraining_recipe("ti")
    config.init = "from_nothing"
    config.model.update(width=128, depth=2, heads=4, patch_size=8, image_size=32, drop_path=0.0)
    config.data.update(root="data/single_digits", workers=0, crop_share=1.0)
    # Flips and rotations can turn one digit into another; these crops leave most of the digit visible.
    config.augment.update(crop_area=0.6, flip=0.0, operations=0, erase=0.0, mixup=0.0, cutmix=0.2)
    config.train.update(batch_size=64, epochs=10, log_every=125)
    config.optimizer.update(learning_rate=1e-3, min_lr=1e-6, warmup_epochs=0.5, weight_decay=0.05, rate_batch=0)
    config.eval.update(batch_size=120, every_epochs=0)
    return config
