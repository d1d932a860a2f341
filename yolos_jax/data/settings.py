"""The settings of views, buckets and loading. No jax here."""

import dataclasses

from yolos_jax.setting import AUGMENTED, YES, setting

PIXELS = 16384  # of the longest side of an image
CHANCE = {"low": 0, "high": 1, "noun": "a probability"}


@dataclasses.dataclass(frozen=True)
class ViewSettings:
    """How a detector's images are resized and augmented, and into which lengths they are sorted."""

    short_side: int = setting(
        800, "pixels of the short side for evaluation, and for training where nothing is augmented", low=1,
        high=PIXELS, resume=AUGMENTED, also=("imgsz", "img_size", "image_size", "size"),
    )  # fmt: skip
    max_side: int = setting(0, "most pixels of the long side; 0 for 1333 in proportion to 800", low=0, high=PIXELS)
    scales: tuple[int, ...] = setting(
        tuple(range(480, 801, 16)), "augmentation: short sides to draw from; () for no augmentation", low=1,
        high=PIXELS, lengths=(0, 100),
    )  # fmt: skip
    flip: float = setting(0.5, "augmentation: probability of a horizontal flip", also=("fliplr",), **CHANCE)
    crop: float = setting(0.5, "augmentation: probability of a random crop", **CHANCE)
    crop_sides: tuple[int, ...] = setting(
        (400, 500, 600), "augmentation: short sides before a crop, to draw from", low=1, high=PIXELS, lengths=(1, 100)
    )
    crop_range: tuple[int, int] = setting(
        (384, 600), "augmentation: bounds of a crop's sides in pixels", low=1, high=2048, lengths=(2, 2)
    )
    augment: str = setting(
        "none", "augmentation besides scales, flip and crop, also without scales: none, light (colours), strong (more "
        "of them, and zoom) or aerial (also any side up), see docs/data.md",
        choices=("none", "light", "strong", "aerial"), also=("augmentation", "augmentations", "auto_augment"),
    )  # fmt: skip
    repeat_threshold: float = setting(
        0.0, "classes in a smaller share of the training images than this have theirs repeated in every epoch (LVIS's "
        "repeat factor sampling); 0 for none", also=("oversample_thr", "repeat_thresh"), low=0, high=1,
    )  # fmt: skip
    buckets: int = setting(
        12, "most sequence lengths that a run compiles for; more of them pad less; 0 weighs compiling against padding "
        "over the steps of the run", low=0, high=64,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LoaderSettings:
    """Who reads images ahead of the devices."""

    workers: int = setting(
        4, "processes that decode images; 0 for threads instead", low=0, high=256, resume=YES, host=True,
        also=("num_workers", "dataloader_num_workers"),
    )  # fmt: skip
    ahead: int = setting(2, "batches that each of them prepares ahead", low=1, high=64, resume=YES, host=True)


@dataclasses.dataclass(frozen=True)
class ClassViewSettings:
    """How a classifier's images are augmented."""

    crop_area: float = setting(0.08, "least share of an image's area that a random crop has", low=0.001, high=1)
    flip: float = setting(0.5, "probability of a horizontal flip", **CHANCE)
    operations: int = setting(2, "RandAugment: operations on an image, in a row", low=0, high=16)
    chance: float = setting(0.5, "RandAugment: probability of each operation", **CHANCE)
    magnitude: float = setting(9.0, "RandAugment: mean magnitude", low=0, high=10)
    deviation: float = setting(0.5, "RandAugment: standard deviation of the magnitude", low=0, high=10)
    erase: float = setting(0.25, "probability that a box becomes noise", **CHANCE)


@dataclasses.dataclass(frozen=True)
class MixingSettings:
    """How a classifier's images are mixed in pairs."""

    mixup: float = setting(
        0.8, "mixup: both parameters of the beta distribution of shares; 0 for none", low=0, high=100
    )
    cutmix: float = setting(1.0, "CutMix: the same", low=0, high=100)
    mix: float = setting(1.0, "probability that two images are mixed", **CHANCE)
    switch: float = setting(0.5, "probability that it is by CutMix, if both are wanted", **CHANCE)
