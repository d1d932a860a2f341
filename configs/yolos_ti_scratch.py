"""YOLOS-Ti without pre-training: 600 epochs from random weights; otherwise `yolos_ti`. Paper, table 2, "rand. init.".

python train.py --config configs/yolos_ti_scratch.py --workdir runs/ti_scratch

The start is the reference's random one, with tiny tokens and positions, as in the paper. --config.init=from_nothing is
this package's, which learns faster without pre-training.
"""

from ml_collections import ConfigDict

from yolos_jax import settings


def get_config() -> ConfigDict:
    config = settings.get_config("ti")
    config.data.update(short_side=512, scales=tuple(range(256, 609, 16)), buckets=16)
    config.train.update(batch_size=16, images_per_replica=2, epochs=600)
    config.optimizer.learning_rate = 5e-5
    return config
