r"""YOLOS-S on Pascal VOC, with 20 classes and "no object"; no published AP. Evaluated on VOC 2007 test.

yolos-train --config yolos_s_voc --workdir runs/voc --config.data.root=data/VOCdevkit \
    --config.init=runs/s

The data set is the folder VOC2007, or VOCdevkit with VOC2007 and VOC2012. Training uses their trainval splits. The
sizes are those that the reference uses for VOC: short sides of 416 to 608, long sides of at most 800, crops of 384 to
512, and a short side of 512 for evaluation. Set `--config.init` to COCO weights or a converted DeiT. Evaluation adds
VOC's own AP50 to COCO's metrics.
"""

from ml_collections import ConfigDict

from yolos_jax.config.recipes import detection_recipe


def get_config() -> ConfigDict:
    config = detection_recipe("s")
    config.model.num_classes = 20  # numbered from 0 in alphabetical order
    config.data.update(root="data/VOCdevkit", train_split="trainval", val_split="test")
    config.data.update(scales=tuple(range(416, 609, 16)), crop_range=(384, 512), short_side=512, max_side=800)
    return config
