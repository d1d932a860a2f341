"""The recipe of `make demo`: a micro YOLOS, trained from scratch on scenes of 1 to 3 handwritten digits.

python -m yolos_jax.datasets.digits --out data/digits
yolos-train --config digits --workdir runs/digits --config.data.root=data/digits

Trains in about five minutes on two CPU cores: 64x64-pixel images, 8x8 patches, 6,000 training scenes.
"""

from ml_collections import ConfigDict

from yolos_jax.config.recipes import detection_recipe


def get_config() -> ConfigDict:
    config = detection_recipe("ti")
    config.init = "from_nothing"
    config.model.update(width=128, depth=2, heads=4, patch_size=8, max_side=8)
    config.model.update(det_tokens=10, num_classes=10, init_pe_size=(64, 64))
    config.data.update(root="data/digits", short_side=64, max_side=64, buckets=1, scales=(), workers=0)
    config.train.update(batch_size=16, images_per_replica=16, epochs=14, log_every=125)
    config.optimizer.update(learning_rate=5e-4, min_lr=1e-6)
    config.eval.update(batch_size=50, every_epochs=2)
    return config
