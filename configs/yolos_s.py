"""YOLOS-S: 30.7 M parameters, 512x864 position grids, initial and mid-layer.

python convert.py deit_small_distilled_patch16_224.pth --variant s --out runs/deit_s
python train.py --config configs/yolos_s.py --config.init=runs/deit_s --workdir runs/s
"""

from configs import common


def get_config():
    return common.get_config("s")
