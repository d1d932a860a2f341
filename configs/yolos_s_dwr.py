"""YOLOS-S (dWr): 27.6 M parameters, narrower and deeper than S, 512x864 position grids.

python train.py --config configs/yolos_s_dwr.py --config.init=runs/deit_s_dwr --workdir runs/s_dwr
"""

from configs import common


def get_config():
    return common.get_config("s_dwr")
