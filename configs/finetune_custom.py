"""Fine-tunes pretrained weights on your own data, in any supported layout; there is no published AP.

yolos-check-data --config finetune_custom --config.data.root=data/mine
yolos-train --config finetune_custom --workdir runs/mine --config.data.root=data/mine \
    --config.init=hustvl/yolos-small

Set `--config.init` to COCO weights (a checkpoint of this package, a Hugging Face folder or hub id), or to a ViT such as
DeiT. The weights determine the architecture, and the `model.` settings must agree with it. With
--config.init=from_nothing, S is trained from scratch. Classes and their names come from the annotations; if the number
of classes differs from that of the weights, the last layer of the class head is initialised afresh. A run lasts 50
epochs or 4,000 steps, whichever is longer. It stops after 20 consecutive evaluations without improvement; it evaluates
after every epoch, or every 200 steps if epochs are shorter. Training needs one GPU with at least 16 GB. On one GPU,
each batch is processed in two parts of 4 images (docs/training.md lists the peak memory); on four or eight GPUs, use
--config.train.accumulate=1.
"""

from ml_collections import ConfigDict

from yolos_jax.config.recipes import detection_recipe


def get_config() -> ConfigDict:
    config = detection_recipe("s", from_init=True)
    config.model.num_classes = 0  # derived from the data
    config.data.update(root="data/mine", train_split="train", val_split="val", categories="contiguous", buckets=0)
    config.train.update(batch_size=8, accumulate=2, epochs=50, least_steps=4000, patience=20, ema=0.999)
    config.optimizer.update(learning_rate=5e-5, schedule="step", warmup_steps=200)
    config.eval.update(every_epochs=1, least_steps=200)
    return config
