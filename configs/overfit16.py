"""A check that training works: a micro YOLOS overfits the first 16 images of COCO's train2017.

yolos-train --config overfit16 --workdir runs/overfit16 --config.data.root=data/coco
yolos-eval --config overfit16 --checkpoint runs/overfit16 --config.data.root=data/coco

Both programs use the same 16 images. AP50 exceeds 0.8 within ten minutes on two CPU cores.
"""

from ml_collections import ConfigDict

from yolos_jax.config.recipes import detection_recipe


def get_config() -> ConfigDict:
    config = detection_recipe("ti")
    config.init = "from_nothing"
    config.model.update(width=128, depth=4, heads=4, det_tokens=30, init_pe_size=(128, 208))
    config.data.update(short_side=128, max_side=208, max_images=16, buckets=2, scales=(), workers=0)
    config.data.val_split = "train2017"
    config.train.update(batch_size=8, images_per_replica=8, epochs=1000, log_every=100)
    config.eval.every_epochs = 0
    config.optimizer.update(learning_rate=1e-3, min_lr=1e-6)
    return config
