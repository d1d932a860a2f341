"""Settings of augmentation, buckets and loading. No jax here."""

import dataclasses

from yolos_jax.setting import AUGMENTED, YES, setting

PIXELS = 16384  # largest allowed side of an image
CHANCE = {"low": 0, "high": 1, "noun": "a probability"}


@dataclasses.dataclass(frozen=True)
class ViewSettings:
    """How a detector's images are resized, augmented and grouped by length."""

    short_side: int = setting(
        800, "pixels of the short side in evaluation, and in training without augmentation", low=1,
        high=PIXELS, resume=AUGMENTED, also=("imgsz", "img_size", "image_size", "size"),
    )  # fmt: skip
    max_side: int = setting(0, "maximum pixels of the long side; 0: short side * 1333 / 800", low=0, high=PIXELS)
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
        "none", "augmentation beyond scales, flip and crop, even without scales: none, light (colours), strong "
        "(stronger colours and zoom) or aerial (also vertical flips and quarter turns), see docs/data.md",
        choices=("none", "light", "strong", "aerial"), also=("augmentation", "augmentations", "auto_augment"),
    )  # fmt: skip
    repeat_threshold: float = setting(
        0.0, "repeats images of classes that are in a smaller fraction of the training images than this (LVIS's "
        "repeat factor sampling); 0 for no repetition", also=("oversample_thr", "repeat_thresh"), low=0, high=1,
    )  # fmt: skip
    buckets: int = setting(
        12, "maximum number of sequence lengths to compile for; more pad less; 0 chooses the number that minimises the "
        "time of compiling and of padding over the run", low=0, high=64,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LoaderSettings:
    """How images are prefetched."""

    workers: int = setting(
        4, "processes that decode images; 0 uses threads instead", low=0, high=256, resume=YES, host=True,
        also=("num_workers", "dataloader_num_workers"),
    )  # fmt: skip
    ahead: int = setting(2, "batches that each data worker prefetches", low=1, high=64, resume=YES, host=True)


@dataclasses.dataclass(frozen=True)
class ClassViewSettings:
    """How a classifier's images are augmented."""

    crop_area: float = setting(0.08, "minimum fraction of an image's area in a random crop", low=0.001, high=1)
    flip: float = setting(0.5, "probability of a horizontal flip", **CHANCE)
    operations: int = setting(2, "RandAugment: operations applied to each image", low=0, high=16)
    chance: float = setting(0.5, "RandAugment: probability of each operation", **CHANCE)
    magnitude: float = setting(9.0, "RandAugment: mean magnitude", low=0, high=10)
    deviation: float = setting(0.5, "RandAugment: standard deviation of the magnitude", low=0, high=10)
    erase: float = setting(0.25, "probability of random erasing: a rectangle is filled with noise", **CHANCE)


@dataclasses.dataclass(frozen=True)
class MixingSettings:
    """How a classifier's images are mixed in pairs."""

    mixup: float = setting(0.8, "mixup: alpha of the beta distribution; 0 for no mixup", low=0, high=100)
    cutmix: float = setting(1.0, "CutMix: alpha of the beta distribution; 0 for no CutMix", low=0, high=100)
    mix: float = setting(1.0, "probability of mixing two images", **CHANCE)
    switch: float = setting(0.5, "probability of CutMix instead of mixup, if both are enabled", **CHANCE)
