"""YOLOS-Ti: 6.5 M parameters, 800x1333 position grid, two images per replica when normalising.

python convert.py deit_tiny_distilled_patch16_224.pth --variant ti --out runs/deit_ti
python train.py --config configs/yolos_ti.py --config.init=runs/deit_ti --workdir runs/ti
"""

from configs import common


def get_config():
    config = common.get_config("ti")
    config.data.short_side = 512
    config.train.batch_size = 16
    config.train.images_per_replica = 2
    config.train.epochs = 300
    config.optimizer.learning_rate = 5e-5
    return config
