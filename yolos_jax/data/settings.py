"""Settings for augmentation, buckets and data loading. Does not import jax."""

import dataclasses

from yolos_jax.setting import AUGMENTED, YES, setting

PIXELS = 16384  # maximum side of a resized image
CHANCE = {"low": 0, "high": 1, "noun": "a probability"}


@dataclasses.dataclass(frozen=True)
class ViewSettings:
    """How images for detection are resized, augmented and grouped by sequence length."""

    short_side: int = setting(
        800, "short side of images in pixels, in evaluation and in training without augmentation", low=1,
        high=PIXELS, resume=AUGMENTED, also=("imgsz", "img_size", "image_size", "size"),
    )  # fmt: skip
    max_side: int = setting(0, "maximum long side in pixels; 0 for short_side * 1333 / 800", low=0, high=PIXELS)
    scales: tuple[int, ...] = setting(
        tuple(range(480, 801, 16)), "augmentation: possible short sides in pixels; () for no augmentation", low=1,
        high=PIXELS, lengths=(0, 100),
    )  # fmt: skip
    flip: float = setting(0.5, "augmentation: probability of a horizontal flip", also=("fliplr",), **CHANCE)
    crop: float = setting(0.5, "augmentation: probability of a random crop", **CHANCE)
    crop_sides: tuple[int, ...] = setting(
        (400, 500, 600), "augmentation: possible short sides before a crop", low=1, high=PIXELS, lengths=(1, 100)
    )
    crop_range: tuple[int, int] = setting(
        (384, 600), "augmentation: minimum and maximum side of a crop in pixels", low=1, high=2048, lengths=(2, 2)
    )
    augment: str = setting(
        "none", "augmentation in addition to scales, flip and crop; used even if scales is (): none, light (colour), "
        "strong (stronger colour, and zoom) or aerial (also vertical flips and 90-degree rotations); see docs/data.md",
        choices=("none", "light", "strong", "aerial"), also=("augmentation", "augmentations", "auto_augment"),
    )  # fmt: skip
    repeat_threshold: float = setting(
        0.0, "repeats images with classes that occur in less than this fraction of the training images (repeat factor "
        "sampling, as for LVIS); 0 for no repetition", also=("oversample_thr", "repeat_thresh"), low=0, high=1,
    )  # fmt: skip
    buckets: int = setting(
        12, "maximum number of padded sequence lengths, each compiled separately; more lengths reduce padding; 0 "
        "chooses the number with the lowest estimated time for compilation and padding over the run", low=0, high=64,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LoaderSettings:
    """How images are prefetched."""

    workers: int = setting(
        4, "number of processes that decode images; 0 uses threads instead", low=0, high=256, resume=YES, host=True,
        also=("num_workers", "dataloader_num_workers"),
    )  # fmt: skip
    ahead: int = setting(2, "number of batches that each worker prefetches", low=1, high=64, resume=YES, host=True)


@dataclasses.dataclass(frozen=True)
class ClassViewSettings:
    """How images for classification are augmented."""

    crop_area: float = setting(0.08, "minimum area of a random crop, as a fraction of the image", low=0.001, high=1)
    flip: float = setting(0.5, "probability of a horizontal flip", **CHANCE)
    operations: int = setting(2, "RandAugment: number of operations per image", low=0, high=16)
    chance: float = setting(0.5, "RandAugment: probability of each operation", **CHANCE)
    magnitude: float = setting(9.0, "RandAugment: mean magnitude", low=0, high=10)
    deviation: float = setting(0.5, "RandAugment: standard deviation of the magnitude", low=0, high=10)
    erase: float = setting(0.25, "probability of random erasing, which fills a rectangle with noise", **CHANCE)


@dataclasses.dataclass(frozen=True)
class MixingSettings:
    """How pairs of images for classification are mixed."""

    mixup: float = setting(0.8, "mixup: alpha of the beta distribution; 0 for no mixup", low=0, high=100)
    cutmix: float = setting(1.0, "CutMix: alpha of the beta distribution; 0 for no CutMix", low=0, high=100)
    mix: float = setting(1.0, "probability of mixing two images", **CHANCE)
    switch: float = setting(0.5, "probability of CutMix instead of mixup if both are enabled", **CHANCE)
