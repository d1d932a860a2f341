"""The settings of data sets: where they lie, and how annotations and images are read. No jax here."""

import dataclasses
from collections.abc import Mapping

from yolos_jax.setting import YES, setting

CATEGORIES = ("raw", "contiguous")
BOXES = ("xywh", "xyxy", "xywh_shares", "xyxy_shares", "cxcywh_shares")  # what the numbers of a box are


@dataclasses.dataclass(frozen=True)
class SplitSettings:
    """Which images there are; the same for detection and classification."""

    root: str = setting(
        "data/coco", "a data set, in any layout of docs/data.md: a folder, or a data.yaml", path=True, resume=YES,
        host=True, also=("path", "data_dir", "dataset", "data"),
    )  # fmt: skip
    train_split: str = setting(
        "train2017", "split to train on, by its name or a usual one for the same (train2017, train, training)",
        resume=YES,
    )  # fmt: skip
    val_split: str = setting(
        "val2017", "split to evaluate on, by its name or a usual one for the same (val2017, val, valid, validation)",
        resume=YES,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class AmountSettings:
    """How many images are used, and what an unreadable one does."""

    max_images: int = setting(
        0, "use at most this number of images of a split, the first ones (of a classifier's, spread evenly); 0 for all",
        low=0, high=10**9,
    )  # fmt: skip
    on_bad_image: str = setting(
        "stop", "what an unreadable or absent image does: stop, or skip (it is named and counted, and in training "
        "another image takes its place)", choices=("stop", "skip"), resume=YES,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class AnnotationSettings:
    """How a detector's annotations and images are read where the data set alone does not say."""

    train_annotations: str = setting(
        "", "a COCO file of annotations to train on in another place than the split's; with TFDS, in place of the "
        "records' boxes", path=True, resume=YES, host=True,
    )  # fmt: skip
    train_images: str = setting(
        "", "images to train on in another place than the split's", path=True, resume=YES, host=True
    )
    val_annotations: str = setting("", "the same for evaluation", path=True, resume=YES, host=True)
    val_images: str = setting("", "the same for evaluation", path=True, resume=YES, host=True)
    categories: str = setting(
        "raw", "labels: raw (category ids) or contiguous (ids numbered 0, 1, ...)", choices=CATEGORIES
    )
    train_boxes: str = setting(
        "xywh", "what the numbers of a box to train on are: xywh (COCO's x, y, width, height in pixels), xyxy (two "
        "corners in pixels), or shares of the sides: xywh_shares, xyxy_shares, cxcywh_shares", choices=BOXES,
        also=("box_format",),
    )  # fmt: skip
    val_boxes: str = setting("xywh", "the same for evaluation", choices=BOXES, resume=YES)
    names: str = setting(
        "match", "where data and checkpoint, or both splits, give a number to classes of different names: match (by "
        "name, if the names are the same ones; else stop), or ids (go by the numbers)", choices=("match", "ids"),
        resume=YES,
    )  # fmt: skip
    upright: str = setting(
        "auto", "whether images are turned as their EXIF tag says: auto (as the boxes and sizes of all such images of "
        "a split fit; upright if nothing tells), yes, or no (the reference's reading)", choices=("auto", "yes", "no"),
    )  # fmt: skip
    sixteen_bit: str = setting(
        "full", "what is white in an image of 16 bits: full (65535), or stretch (the image's own maximum, for images "
        "that hold 12 bits)", choices=("full", "stretch"),
    )  # fmt: skip
    sizes: str = setting(
        "annotated", "where images' sizes come from: annotated, and from the images where that lacks them; or images, "
        "which looks at all of them first", choices=("annotated", "images"),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settled:
    """What a checkpoint, or the split to train on, has settled for a data set."""

    category_ids: tuple[int, ...] | None = None  # of every label
    label_names: Mapping[int, str] | None = None  # of every label that has one
    by: str = "the checkpoint"  # what settled it
    refuse: bool = True  # complain of names that contradict and cannot be matched
    exif: str = ""  # how images that EXIF turns are read if nothing tells, "upright" or "stored"; "" for upright


@dataclasses.dataclass(frozen=True)
class SplitOptions:
    """How one split is read: the settings of `data.` for it, and what is settled already."""

    which: str = "train"  # or "val"
    num_classes: int = 0  # 0 derives it from the categories
    max_images: int = 0
    categories: str = "raw"
    boxes: str = "xywh"
    names: str = "match"
    upright: str = "auto"
    sixteen_bit: str = "full"
    sizes: str = "annotated"
    keep_absent: bool = False  # keep images whose files are absent: they cannot be read, and a note counts them
    settled: Settled = Settled()
