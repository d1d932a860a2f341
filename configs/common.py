"""What every recipe shares; a recipe states its differences only.

Change any value on the command line: `--config.train.epochs=10`.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from yolos_jax.model.config import VARIANTS


def get_config(variant: str = "ti") -> ConfigDict:
    """The recipe of a named variant, as the reference trains it but for augmentation."""
    config = ConfigDict()
    config.seed = 0
    model = VARIANTS[variant].to_dict()
    config.model = ConfigDict({k: placeholder(tuple) if v is None else v for k, v in model.items()})
    # Starting weights: a checkpoint folder, a Hugging Face folder, .safetensors or .pth (YOLOS, or
    # DeiT for initialisation); or random ones: "reference" (the reference's, meant to be followed by
    # DeiT's) or "from_nothing" (ours, which learn without pre-training).
    config.init = "reference"
    # Hungarian matching: "host" (scipy in a callback) or "device" (inside the compiled program).
    config.matcher = "host"
    # Of float32 matrix products; GPUs would otherwise use TF32.
    config.precision = "float32"

    config.data = ConfigDict()
    config.data.root = "data/coco"
    config.data.train_split = "train2017"
    config.data.val_split = "val2017"
    config.data.short_side = 800
    config.data.max_side = 0  # 0: in proportion to 1333 for 800
    config.data.max_images = 0  # 0: all
    config.data.on_bad_image = "stop"  # or "skip"
    config.data.buckets = 8  # most token counts that a run compiles for

    config.train = ConfigDict()
    config.train.batch_size = 8  # of all devices together
    config.train.images_per_replica = 1  # cross entropy is normalised within groups of so many images
    config.train.epochs = 150
    config.train.max_steps = 0  # 0: all epochs
    config.train.log_every = 50

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 2.5e-5
    config.optimizer.min_lr = 1e-7
    config.optimizer.warmup_epochs = 0
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 0.1

    config.eval = ConfigDict()
    config.eval.batch_size = 8
    return config
