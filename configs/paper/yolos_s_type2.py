"""YOLOS-S with position embeddings of type II: one 800x1344 grid before the first block, none between blocks; AP 36.6.

yolos-convert deit_small_patch16_224.pth --config yolos_s_type2 --out runs/deit_s_type2
yolos-train --config yolos_s_type2 --config.init=runs/deit_s_type2 --workdir runs/s_type2

Paper, appendix on position embeddings; the authors report the grid, the AP and 24.6 M parameters in
https://github.com/hustvl/YOLOS/issues/3. This model has 23.9 M; it would be 24.6 M if the 512x864 grid that the large
one replaces were counted as well. All other settings are those of `yolos_s`. Ti also uses this type.
"""

from ml_collections import ConfigDict

from yolos_jax.config.recipes import detection_recipe


def get_config() -> ConfigDict:
    config = detection_recipe("s")
    config.model.update(init_pe_size=(800, 1344), mid_pe_size=None)
    return config
