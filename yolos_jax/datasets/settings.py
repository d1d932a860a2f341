"""Settings for the location of data sets and for reading annotations and images. Does not import jax."""

import dataclasses
from collections.abc import Mapping

from yolos_jax.setting import YES, setting

CATEGORIES = ("raw", "contiguous")
BOXES = ("xywh", "xyxy", "xywh_shares", "xyxy_shares", "cxcywh_shares")  # box formats


@dataclasses.dataclass(frozen=True)
class SplitSettings:
    """The location of the data set, for detection and classification."""

    root: str = setting(
        "data/coco", "data set in a layout listed in docs/data.md: a folder or a data.yaml", path=True, resume=YES,
        host=True, also=("path", "data_dir", "dataset", "data"),
    )  # fmt: skip
    train_split: str = setting(
        "train2017", "training split; other common names also match (train2017, train, training)",
        resume=YES,
    )  # fmt: skip
    val_split: str = setting(
        "val2017", "validation split; other common names also match (val2017, val, valid, validation)",
        resume=YES,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class AmountSettings:
    """The number of images, and the handling of unreadable images."""

    max_images: int = setting(
        0, "maximum number of images per split: the first images, or evenly spread images for classification; 0 for "
        "all", low=0, high=10**9,
    )  # fmt: skip
    on_bad_image: str = setting(
        "stop", "what to do with an unreadable or missing image: stop, or skip (report and count it; training uses "
        "another image instead)", choices=("stop", "skip"), resume=YES,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class AnnotationSettings:
    """How annotations and images for detection are read, unless the layout determines it."""

    train_annotations: str = setting(
        "", "COCO annotation file to use for training instead of the data set's annotations (for TFDS, instead of the "
        "boxes in the records)", path=True, resume=YES, host=True,
    )  # fmt: skip
    train_images: str = setting(
        "", "image folder to use for training instead of the data set's folder", path=True, resume=YES, host=True
    )
    val_annotations: str = setting("", "like train_annotations, for evaluation", path=True, resume=YES, host=True)
    val_images: str = setting("", "like train_images, for evaluation", path=True, resume=YES, host=True)
    categories: str = setting(
        "raw", "labels: raw (category ids) or contiguous (0, 1, ... in order of category id)", choices=CATEGORIES
    )
    train_boxes: str = setting(
        "xywh", "format of the training boxes: xywh (x, y, width, height in pixels, as in COCO), xyxy (two corners in "
        "pixels), or relative to the image size: xywh_shares, xyxy_shares, cxcywh_shares", choices=BOXES,
        also=("box_format",),
    )  # fmt: skip
    val_boxes: str = setting("xywh", "like train_boxes, for evaluation", choices=BOXES, resume=YES)
    names: str = setting(
        "match", "if the data set and checkpoint, or the two splits, have different class names for the same id: match "
        "(by name if the sets of names are equal, else stop), or ids (match by id)", choices=("match", "ids"),
        resume=YES,
    )  # fmt: skip
    upright: str = setting(
        "auto", "whether to apply the EXIF orientation of images: auto (the choice that fits the annotated boxes and "
        "sizes of a split's rotated images; yes if undetermined), yes, or no (as in the reference)",
        choices=("auto", "yes", "no"),
    )  # fmt: skip
    sixteen_bit: str = setting(
        "full", "white level of 16-bit images: full (65535), or stretch (the image's maximum, for example for images "
        "that use only 12 bits)", choices=("full", "stretch"),
    )  # fmt: skip
    sizes: str = setting(
        "annotated", "source of image sizes: annotated (missing sizes are read from the image files), or images "
        "(the header of every image is read first)", choices=("annotated", "images"),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settled:
    """Properties of a data set that a checkpoint or the training split determines."""

    category_ids: tuple[int, ...] | None = None  # category id of each label
    label_names: Mapping[int, str] | None = None  # category name of each label
    by: str = "the checkpoint"  # source of these properties, for messages
    refuse: bool = True  # report names that conflict and cannot be matched
    exif: str = ""  # how to read images if nothing determines the orientation: "upright" or "stored"; "" for upright


@dataclasses.dataclass(frozen=True)
class SplitOptions:
    """How to read one split: its settings under `data.` and the properties that are already determined."""

    which: str = "train"  # or "val"
    num_classes: int = 0  # 0 derives it from the categories
    max_images: int = 0
    categories: str = "raw"
    boxes: str = "xywh"
    names: str = "match"
    upright: str = "auto"
    sixteen_bit: str = "full"
    sizes: str = "annotated"
    keep_absent: bool = False  # keep entries of missing images, count them as unreadable and report their number
    settled: Settled = Settled()
