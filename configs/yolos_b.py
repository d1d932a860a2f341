"""YOLOS-B: 127.8 M parameters, 800x1344 position grids, initial and mid-layer.

python convert.py deit_base_distilled_patch16_384.pth --variant b --out runs/deit_b
python train.py --config configs/yolos_b.py --config.init=runs/deit_b --workdir runs/b
"""

from configs import common


def get_config():
    return common.get_config("b")
