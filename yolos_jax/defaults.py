"""What every recipe shares; a recipe states its differences only.

Change any value on the command line: `--config.train.epochs=10`.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from yolos_jax.model.config import COMPUTE_SETTINGS, VARIANTS, Compute


def get_config(variant: str = "ti") -> ConfigDict:
    """The recipe of a named variant, as the reference trains it."""
    config = ConfigDict()
    config.seed = 0
    # Of the model, num_classes may be 0: derived from the training annotations.
    model = VARIANTS[variant].to_dict() | {key: getattr(Compute(), name) for key, name in COMPUTE_SETTINGS.items()}
    config.model = ConfigDict({k: placeholder(tuple) if v is None else v for k, v in model.items()})
    # Starting weights: a checkpoint folder, a Hugging Face folder or hub id, .safetensors or .pth (YOLOS,
    # or a ViT such as DeiT's for initialisation); or random ones: "reference" (the reference's, meant to be followed by
    # DeiT's) or "from_nothing" (ours, which learn without pre-training).
    config.init = "reference"
    # Hungarian matching: "host" (scipy in a callback) or "device" (inside the compiled program).
    config.matcher = "host"
    # Of float32 matrix products; GPUs would otherwise use TF32.
    config.precision = "float32"

    config.data = data = ConfigDict()
    data.root = "data/coco"  # a COCO folder, or a TFDS directory (see prepare_tfds.py)
    data.train_split = "train2017"  # annotations/instances_train2017.json beside train2017/; TFDS's train
    data.val_split = "val2017"
    data.train_annotations = ""  # other places than the splits', if given; with TFDS, instead of the records' boxes
    data.train_images = ""
    data.val_annotations = ""
    data.val_images = ""
    data.categories = "raw"  # labels are category ids; or "contiguous": ids numbered 0, 1, ...
    data.max_images = 0  # 0: all
    data.on_bad_image = "stop"  # or "skip": named and counted; in training another image takes its place
    # Evaluation, and training where nothing is augmented: the short side's pixels, and most of the long one's.
    data.short_side = 800
    data.max_side = 0  # 0: in proportion to 1333 for 800
    # Augmentation: short sides to draw from (none: no augmentation), and probabilities.
    data.scales = tuple(range(480, 801, 16))
    data.flip = 0.5
    data.crop = 0.5
    data.crop_sides = (400, 500, 600)  # short sides before a crop
    data.crop_range = (384, 600)  # least and most pixels of a crop's sides
    data.buckets = 12  # most token counts that a run compiles for; more pad less
    data.workers = 4  # processes that decode images; 0: threads of the main one
    data.ahead = 2  # batches each of them prepares ahead

    config.train = train = ConfigDict()
    train.batch_size = 8  # of all devices together
    train.images_per_replica = 1  # cross entropy is normalised within groups of so many images
    train.accumulate = 1  # parts that a batch is computed in, one after the other (memory)
    train.epochs = 150
    train.max_steps = 0  # 0: all epochs
    train.ema = 0.0  # decay of a moving average of the parameters, which evaluation then uses
    train.log_every = 50

    config.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 2.5e-5
    optimizer.min_lr = 1e-7
    optimizer.schedule = "epoch"  # the reference's cosine, constant within an epoch; or "step"
    optimizer.warmup_epochs = 0
    optimizer.weight_decay = 1e-4
    optimizer.clip_norm = 0.1

    config.eval = ConfigDict()
    config.eval.batch_size = 8
    config.eval.every_epochs = 1  # 0: never while training

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 1000  # and before every evaluation, and at the end
    config.checkpoint.keep = 3  # latest ones; the best by AP is kept apart
    return config
