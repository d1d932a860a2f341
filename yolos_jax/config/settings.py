"""Every setting of a recipe, each declared once: default, meaning, bounds, and what may change when a run resumes.

A recipe file states its differences: `config = settings.get_config("s")`, and then `config.train.epochs = 10`. On the
command line the same is `--config.train.epochs=10`. The checks, `--help`, the comparison of a resumed run with its
checkpoint and `docs/settings.md` (`python -m yolos_jax.config.settings > docs/settings.md`) all follow from `SETTINGS`
below, a detector's, or for a recipe whose `task` says so from those of `settings_pretrain`. Nothing here starts jax.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from yolos_jax.config.kinds import (  # fmt: skip
    AUGMENTED,
    NEVER,
    YES,
    Choice,
    Flag,
    Optional,
    Place,
    Real,
    Setting,
    Text,
    Texts,
    Whole,
    Wholes,
)
from yolos_jax.config.pretraining import TASK, pretraining_settings
from yolos_jax.config.tables import Settings, flat, former, nested, tables, unknown
from yolos_jax.errors import InputError
from yolos_jax.model.classifier_config import classifier_variant
from yolos_jax.model.config import ATTENTIONS, Compute, YolosConfig, variant
from yolos_jax.objective.weights import LossWeights

FLOAT32 = 3e38  # what float32 can hold
MOST_STEPS = 2**31 - 1  # steps are counted in int32
PIXELS = 16384  # of the longest side of an image
_MODEL, _COMPUTE, _LOSS = YolosConfig(), Compute(), LossWeights()
_PATH, _NAME = Place(), Text()
BOXES = ("xywh", "xyxy", "xywh_shares", "xyxy_shares", "cxcywh_shares")  # what the numbers of a box are
_BOXES = Choice(BOXES)

# fmt: off
SETTINGS: dict[str, Setting] = {
    "seed": Setting(0, "seed of the starting weights, the order of images and their augmentation", Whole(0, 2**63 - 1)),
    "init": Setting("reference", "starting weights: a checkpoint folder, a Hugging Face folder or hub id, .safetensors "
        "or .pth (of YOLOS, or of a ViT such as DeiT); or random ones: reference (the reference's, meant to be "
        "followed by DeiT's) or from_nothing (ours, which learn without pre-training)", _PATH, YES, host=True),
    "matcher": Setting("host", "where Hungarian matching runs: host (scipy in a callback) or device (inside the "
        "compiled program)", Choice(("host", "device")), YES),
    "precision": Setting("float32", "precision of float32 matrix products; GPUs would otherwise use TF32",
        Choice(("default", "high", "highest", "float32", "bfloat16", "tensorfloat32"))),

    "model.width": Setting(_MODEL.width, "embedding width, a multiple of heads", Whole(1, 8192)),
    "model.depth": Setting(_MODEL.depth, "number of transformer blocks", Whole(2, 256)),
    "model.heads": Setting(_MODEL.heads, "attention heads", Whole(1, 1024)),
    "model.mlp_ratio": Setting(_MODEL.mlp_ratio, "hidden width of a block's MLP over model.width", Real(1e-4, 64)),
    "model.patch_size": Setting(_MODEL.patch_size, "side of a patch in pixels", Whole(1, 256)),
    "model.det_tokens": Setting(_MODEL.det_tokens, "number of DET tokens (object queries)", Whole(1, 10_000)),
    "model.num_classes": Setting(_MODEL.num_classes, "number of classes; 0 derives it from the training annotations",
        Whole(0, 100_000)),
    "model.init_pe_size": Setting(_MODEL.init_pe_size, "height and width in pixels of the grid of the position "
        "embeddings that are added before the first block", Wholes(1, 8192, 2, 2)),
    "model.mid_pe_size": Setting(_MODEL.mid_pe_size, "the same for the embeddings that are added after every block but "
        "the last; None for a model without them", Optional(Wholes(1, 8192, 2, 2))),
    "model.layer_norm_eps": Setting(_MODEL.layer_norm_eps, "epsilon of LayerNorm: 1e-6 in the reference, 1e-12 in "
        "Hugging Face configs", Real(0, 1)),
    "model.skip_equal_count": Setting(_MODEL.skip_equal_count, "use position embeddings as they are whenever their "
        "number is the image's number of patches, even if the shape differs (a slip of the reference)", Flag()),
    "model.max_side": Setting(_COMPUTE.max_side, "longest side of an image, in patches, that the model is compiled for",
        Whole(1, 1024), YES),
    "model.attention": Setting(_COMPUTE.attention, "how attention is computed: cudnn (NVIDIA GPUs, bfloat16), blocks "
        "(see model.query_block), or auto (cudnn where it can be, else blocks, on GPUs of at least 1024)",
        Choice(ATTENTIONS), YES),
    "model.query_block": Setting(_COMPUTE.query_block, "attention meets so many keys, or queries, at once (memory "
        "against speed)", Whole(1, 1_000_000), YES),
    "model.compute_dtype": Setting(_COMPUTE.dtype, "dtype of the transformer's activations and products",
        Choice(("float32", "bfloat16"))),
    "model.remat": Setting(_COMPUTE.remat, "recompute each block's activations for its gradient (memory against a "
        "third more time)", Flag(), YES),

    "data.root": Setting("data/coco", "a data set, in any layout of docs/data.md: a folder, or a data.yaml", _PATH, YES,
        host=True),
    "data.train_split": Setting("train2017", "split to train on, by its name or a usual one for the same (train2017, "
        "train, training)", _NAME, YES),
    "data.val_split": Setting("val2017", "split to evaluate on, by its name or a usual one for the same (val2017, val, "
        "valid, validation)", _NAME, YES),
    "data.train_annotations": Setting("", "a COCO file of annotations to train on in another place than the split's; "
        "with TFDS, in place of the records' boxes", _PATH, YES, host=True),
    "data.train_images": Setting("", "images to train on in another place than the split's",
        _PATH, YES, True, "data.train_pictures"),
    "data.val_annotations": Setting("", "the same for evaluation", _PATH, YES, host=True),
    "data.val_images": Setting("", "the same for evaluation", _PATH, YES, True, "data.val_pictures"),
    "data.categories": Setting("raw", "labels: raw (category ids) or contiguous (ids numbered 0, 1, ...)",
        Choice(("raw", "contiguous"))),
    "data.train_boxes": Setting("xywh", "what the numbers of a box to train on are: xywh (COCO's x, y, width, height "
        "in pixels), xyxy (two corners in pixels), or shares of the sides: xywh_shares, xyxy_shares, cxcywh_shares",
        _BOXES),
    "data.val_boxes": Setting("xywh", "the same for evaluation", _BOXES, YES),
    "data.names": Setting("match", "where data and checkpoint, or both splits, give a number to classes of different "
        "names: match (by name, if the names are the same ones; else stop), or ids (go by the numbers)",
        Choice(("match", "ids")), YES),
    "data.upright": Setting("auto", "whether images are turned as their EXIF tag says: auto (as the boxes and sizes of "
        "all such images of a split fit; upright if nothing tells), yes, or no (the reference's reading)",
        Choice(("auto", "yes", "no"))),
    "data.sixteen_bit": Setting("full", "what is white in an image of 16 bits: full (65535), or stretch (the image's "
        "own maximum, for images that hold 12 bits)", Choice(("full", "stretch"))),
    "data.max_images": Setting(0, "use only so many images of a split, the first ones (of a classifier's, spread "
        "evenly); 0 for all", Whole(0, 10**9)),
    "data.sizes": Setting("annotated", "where images' sizes come from: annotated, and from the images where that lacks "
        "them; or images, which looks at all of them first", Choice(("annotated", "images"))),
    "data.on_bad_image": Setting("stop", "what an unreadable or absent image does: stop, or skip (it is named and "
        "counted, and in training another image takes its place)", Choice(("stop", "skip")), YES),
    "data.short_side": Setting(800, "pixels of the short side for evaluation, and for training where nothing is "
        "augmented", Whole(1, PIXELS), AUGMENTED),
    "data.max_side": Setting(0, "most pixels of the long side; 0 for 1333 in proportion to 800", Whole(0, PIXELS)),
    "data.scales": Setting(tuple(range(480, 801, 16)), "augmentation: short sides to draw from; () for no augmentation",
        Wholes(1, PIXELS, 0, 100)),
    "data.flip": Setting(0.5, "augmentation: probability of a horizontal flip", Real(0, 1, "a probability")),
    "data.crop": Setting(0.5, "augmentation: probability of a random crop", Real(0, 1, "a probability")),
    "data.crop_sides": Setting((400, 500, 600), "augmentation: short sides before a crop, to draw from",
        Wholes(1, PIXELS, 1, 100)),
    "data.crop_range": Setting((384, 600), "augmentation: bounds of a crop's sides in pixels", Wholes(1, 2048, 2, 2)),
    "data.buckets": Setting(12, "most sequence lengths that a run compiles for; more of them pad less", Whole(1, 64)),
    "data.workers": Setting(4, "processes that decode images; 0 for threads instead", Whole(0, 256), YES, host=True),
    "data.ahead": Setting(2, "batches that each of them prepares ahead", Whole(1, 64), YES, host=True),

    "train.batch_size": Setting(8, "images of a batch, over all devices", Whole(1, 16_384)),
    "train.images_per_replica": Setting(1, "cross entropy is normalised in groups of so many images", Whole(1, 16_384)),
    "train.accumulate": Setting(1, "parts of a batch that are computed in turn, to save memory", Whole(1, 16_384), YES),
    "train.epochs": Setting(150, "epochs of training", Whole(1, 100_000)),
    "train.max_steps": Setting(0, "stop after so many steps; 0 for all epochs", Whole(0, MOST_STEPS), YES),
    "train.ema": Setting(0.0, "decay, such as 0.9998, of a moving average of the parameters, which evaluation then "
        "uses; 0 for none", Real(0, 0.9999999)),
    "train.log_every": Setting(50, "steps between two lines of the log", Whole(1, MOST_STEPS), YES),
    "train.curves": Setting(True, "draw curves.png (loss terms, results, learning rate, images/s) after every "
        "evaluation and at the end", Flag(), YES),

    "loss.ce": Setting(_LOSS.ce, "weight of cross entropy, in the loss and in the matching cost", Real(0, 1e6)),
    "loss.bbox": Setting(_LOSS.bbox, "weight of the L1 distance of boxes, in both", Real(0, 1e6)),
    "loss.giou": Setting(_LOSS.giou, "weight of generalised IoU, in both", Real(0, 1e6)),
    "loss.no_object": Setting(_LOSS.no_object, 'weight of the class "no object" within cross entropy', Real(0, 1e6)),

    "optimizer.name": Setting("adamw", "an optimizer of optax that takes a learning rate, weight_decay and mask",
        Choice(("adamw", "lamb", "lion", "nadamw")), NEVER),
    "optimizer.learning_rate": Setting(2.5e-5, "base learning rate", Real(0, FLOAT32)),
    "optimizer.min_lr": Setting(1e-7, "learning rate at the end of the schedule", Real(0, FLOAT32)),
    "optimizer.schedule": Setting("epoch", "cosine: epoch (the reference's, constant within an epoch) or step "
        "(advanced every step)", Choice(("epoch", "step"))),
    "optimizer.warmup_epochs": Setting(0.0, "epochs of linear warm-up", Real(0, 100_000)),
    "optimizer.weight_decay": Setting(1e-4, "decoupled weight decay", Real(0, FLOAT32)),
    "optimizer.clip_norm": Setting(0.1, "largest norm of the gradient, that of what is trained; 0 for no clipping",
        Real(0, FLOAT32)),
    "optimizer.freeze": Setting((), "what is not trained: names of parameters, or of groups of them, with * ? [0-5] as "
        "in file names, such as (det_tokens, blocks.[0-5]); docs/training.md has the names", Texts(100), NEVER),
    "optimizer.backbone_lr": Setting(None, "base learning rate of the backbone, which is what a classifier has, too; "
        "None for optimizer.learning_rate", Optional(Real(1e-12, FLOAT32))),
    "optimizer.layer_decay": Setting(1.0, "learning rate of each of the backbone's blocks over that of the next one",
        Real(0.01, 1)),

    "eval.batch_size": Setting(8, "images of a batch of evaluation, over all devices", Whole(1, 1024), YES),
    "eval.every_epochs": Setting(1, "epochs between evaluations; 0 for none while training", Whole(0, 100_000), YES),
    "eval.compilation_cache": Setting("auto", "where eval.py keeps compiled programs for the next evaluation: auto "
        "(what jax has been told, else the user's cache folder), off, or a folder", _PATH, YES, host=True),

    "checkpoint.every_steps": Setting(1000, "steps between checkpoints; there is one before every evaluation and at "
        "the end, too", Whole(1, MOST_STEPS), YES),
    "checkpoint.keep": Setting(3, "latest checkpoints to keep; the best, by AP or top-1, is kept apart",
        Whole(1, 10_000), YES),
}
# fmt: on
DETECTION, CLASSIFICATION = "detection", TASK
TASKS: dict[str, Settings] = {DETECTION: SETTINGS, CLASSIFICATION: pretraining_settings(SETTINGS)}
FORMER = former(SETTINGS)


def get_config(name: str = "ti") -> ConfigDict:
    """The defaults for a named variant of the model, as the reference trains it."""
    return _defaults(SETTINGS, variant(name).to_dict())


def get_classifier_config(name: str = "ti") -> ConfigDict:
    """The defaults for pre-training the classifier that a named variant starts from, as DeiT's recipe does."""
    values = {key: value for key, value in classifier_variant(name).to_dict().items() if key != "num_classes"}
    return _defaults(TASKS[CLASSIFICATION], values)


def task_of(config: Mapping[str, Any] | ConfigDict) -> str:
    """What a recipe trains; anything but a classifier's is a detector's."""
    given = config.get("task") if isinstance(config, Mapping | ConfigDict) else None
    return given if isinstance(given, str) and given in TASKS else DETECTION


def require(config: Mapping[str, Any] | ConfigDict, task: str) -> None:
    """`InputError` if a recipe trains something else."""
    if task_of(config) != task:
        if task == DETECTION:
            raise InputError("the recipe trains a classifier; give it to pretrain.py.")
        raise InputError("the recipe trains a detector; give it to train.py.")


def complete(config: Mapping[str, Any] | ConfigDict) -> ConfigDict:
    """A new config: keys that `config` lacks have their defaults, and every value has been checked.

    An `InputError` names a key that is no setting, or a value that its setting does not accept.
    """
    declared = TASKS[task_of(config)]
    found = flat(config, declared)
    for key in found:
        if key not in declared:
            raise InputError(unknown(key, declared))
    values = {key: setting.check(key, found.get(key, setting.default)) for key, setting in declared.items()}
    return nested(values, declared)


def assign(config: ConfigDict, key: str, text: str) -> None:
    """Sets one value of `config` from a word of the command line; raises `InputError` as `complete` does."""
    declared = TASKS[task_of(config)]
    key = former(declared).get(key, key)
    if key not in declared:
        raise InputError(unknown(key, declared))
    value = declared[key].check(key, declared[key].kind.read(text))
    section, _, name = key.rpartition(".")
    with config.unlocked(), config.ignore_type():
        if section and not isinstance(config.get(section, None), ConfigDict):
            config[section] = ConfigDict()
        (config[section] if section else config)[name] = value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], hosts: bool = False, never: bool = False) -> list[str]:
    """Sentences such as "seed 0 against 1" for settings that must be the same in two configs.

    They are a checkpoint's and the resuming run's or, with `hosts`, those of two processes of one run. Keys that a
    config lacks count as their defaults, so a checkpoint from before a key existed need not differ. With `never`, only
    settings that a resuming run can in no case change.
    """
    declared = TASKS[task_of(new)]
    a, b, found = flat(old, declared), flat(new, declared), []
    for key in sorted(declared.keys() | a.keys() | b.keys()):
        setting = declared.get(key, Setting(None, "", _PATH))
        free = setting.host if hosts else setting.resume == YES or (never and setting.resume != NEVER)
        if setting.resume == AUGMENTED and not hosts and not never:
            free = bool(a.get("data.scales", SETTINGS["data.scales"].default))
        ours, theirs = (values.get(key, setting.default) for values in (a, b))
        if not free and ours != theirs:
            ours, theirs = (list(value) if isinstance(value, tuple) else value for value in (ours, theirs))
            found.append(f"{key} {ours} against {theirs}")
    return found


def _defaults(declared: Settings, model: Mapping[str, Any]) -> ConfigDict:
    values = {key: setting.default for key, setting in declared.items()}
    return nested(values | {f"model.{key}": value for key, value in model.items()}, declared)


def markdown() -> str:
    """The content of `docs/settings.md`."""
    own = TASKS[CLASSIFICATION]
    changed = {key: setting for key, setting in own.items() if SETTINGS.get(key) != setting}
    same = ", ".join(f"`{key}`" for key in own if key not in changed)
    return (
        "# Settings\n\nA recipe sets any of these (`config.train.epochs = 10`), and so does the command line "
        "(`--config.train.epochs=10`). This page is made by `python -m yolos_jax.config.settings`.\n\n*Resume* says "
        "whether a setting may change when a run resumes from its checkpoint; `--accept_differences` goes on in spite "
        "of a *no*. "
        f"Settings marked *host* may differ between the processes of a run.\n{tables(SETTINGS)}\n"
        "# Settings of pre-training\n\nA recipe of `pretrain.py` has these settings, and with the meaning and the "
        f"default above: {same}.\n{tables(changed, ' of pre-training')}"
    )


if __name__ == "__main__":
    print(markdown(), end="")
