"""YOLOS-B: 127.8 M parameters, 800x1344 position grids. Published: AP 42.0 on COCO val2017.

yolos-convert deit_base_distilled_patch16_384.pth --variant b --out runs/deit_b
yolos-train --config yolos_b --config.init=runs/deit_b --workdir runs/b

The recipe follows the published training: 150 epochs on 8 GPUs with one image each.
--config.model.compute_dtype=bfloat16 and --config.model.remat=True save time and memory; the published AP was obtained
in float32.
"""

from ml_collections import ConfigDict

from yolos_jax.config.recipes import detection_recipe


def get_config() -> ConfigDict:
    return detection_recipe("b")
