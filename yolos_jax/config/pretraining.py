"""The settings of pre-training: which of the detector's a classifier shares, with defaults of its own, and the rest.

`settings.TASKS` joins both. A recipe says with `task` whose settings it has, so neither sees the other's.
"""

import dataclasses

from yolos_jax.config.kinds import YES, Choice, Flag, Place, Real, Setting, Whole
from yolos_jax.data.classification.class_views import CentreView, RandomView
from yolos_jax.data.classification.mixing import Mixing
from yolos_jax.model.classifier_config import ClassifierConfig

TASK = "classification"
_MODEL, _VIEW, _MIX = ClassifierConfig(), RandomView(), Mixing()
# Settings that mean the same as the detector's, by key: the default here, None for the same one.
_SHARED = {
    "seed": None, "precision": None,
    "model.width": None, "model.depth": None, "model.heads": None, "model.mlp_ratio": None, "model.patch_size": None,
    "model.layer_norm_eps": None, "model.attention": None, "model.query_block": None, "model.compute_dtype": None,
    "model.remat": None,
    "data.train_split": "train", "data.val_split": "val", "data.max_images": None, "data.on_bad_image": None,
    "data.workers": None, "data.ahead": None,
    "train.batch_size": 1024, "train.accumulate": None, "train.epochs": 300, "train.max_steps": None,
    "train.ema": None, "train.log_every": None, "train.curves": None,
    "optimizer.name": None, "optimizer.learning_rate": 1e-3, "optimizer.min_lr": 1e-5, "optimizer.schedule": "step",
    "optimizer.warmup_epochs": 5.0, "optimizer.weight_decay": 0.05, "optimizer.clip_norm": 0.0,
    "eval.batch_size": 256, "eval.every_epochs": None, "eval.compilation_cache": None,
    "checkpoint.every_steps": None, "checkpoint.keep": None,
}  # fmt: skip
_SHARE = "a probability"

# fmt: off
OWN: dict[str, Setting] = {
    "task": Setting(TASK, "what the recipe trains", Choice((TASK,))),
    "init": Setting("reference", "starting weights: random ones, reference (DeiT's) or from_nothing (on one scale); or "
        "a checkpoint folder of a classifier of the same sizes", Place(), YES, host=True),
    "model.num_classes": Setting(0, "number of classes; 0 derives it from the training data", Whole(0, 100_000)),
    "model.image_size": Setting(_MODEL.image_size, "pixels of a side of the square images", Whole(1, 8192)),
    "model.distilled": Setting(_MODEL.distilled, "a distillation token with a head of its own, which learns from the "
        "labels as the other does: there is no teacher", Flag()),
    "model.drop_path": Setting(0.1, "stochastic depth: how often the last block's branches are left out; the first "
        "one's never are", Real(0, 0.99, _SHARE)),

    "data.root": Setting("data/imagenet", "a folder of class folders for each split, as train/CLASS/picture.jpg, or a "
        "TFDS data set such as imagenet2012 in array_record", Place(), YES, host=True),
    "data.crop_share": Setting(CentreView.share, "evaluation: model.image_size over the short side that images are "
        "resized to before the centre is cut out", Real(0.1, 1)),

    "augment.crop_area": Setting(_VIEW.crop_area, "least share of an image's area that a random crop has",
        Real(0.001, 1)),
    "augment.flip": Setting(_VIEW.flip, "probability of a horizontal flip", Real(0, 1, _SHARE)),
    "augment.operations": Setting(_VIEW.operations, "RandAugment: operations on an image, in a row", Whole(0, 16)),
    "augment.chance": Setting(_VIEW.chance, "RandAugment: probability of each operation", Real(0, 1, _SHARE)),
    "augment.magnitude": Setting(_VIEW.magnitude, "RandAugment: mean magnitude", Real(0, 10)),
    "augment.deviation": Setting(_VIEW.deviation, "RandAugment: standard deviation of the magnitude", Real(0, 10)),
    "augment.erase": Setting(_VIEW.erase, "probability that a box becomes noise", Real(0, 1, _SHARE)),
    "augment.repeats": Setting(1, "repeated augmentation: views of an image in a batch (3 in DeiT's code); an epoch "
        "then has as many steps, of fewer images", Whole(1, 64)),
    "augment.mixup": Setting(_MIX.mixup, "mixup: both parameters of the beta distribution of shares; 0 for none",
        Real(0, 100)),
    "augment.cutmix": Setting(_MIX.cutmix, "CutMix: the same", Real(0, 100)),
    "augment.mix": Setting(_MIX.probability, "probability that two images are mixed", Real(0, 1, _SHARE)),
    "augment.switch": Setting(_MIX.switch, "probability that it is by CutMix, if both are wanted", Real(0, 1, _SHARE)),

    "loss.smoothing": Setting(0.1, "share of each label that is spread over all classes", Real(0, 1)),
    "optimizer.rate_batch": Setting(1024, "batch size that optimizer.learning_rate is meant for: it is scaled linearly "
        "for another one; 0 takes it as it is", Whole(0, 1_000_000)),
}
# fmt: on


def pretraining_settings(detection: dict[str, Setting]) -> dict[str, Setting]:
    """All settings of a classifier's recipe by key, in the order of the detector's groups, then its own."""
    shared = {
        key: detection[key] if default is None else dataclasses.replace(detection[key], default=default)
        for key, default in _SHARED.items()
    }
    found = shared | OWN
    sections = list(dict.fromkeys(key.rpartition(".")[0] for key in found))
    return dict(sorted(found.items(), key=lambda item: sections.index(item[0].rpartition(".")[0])))
