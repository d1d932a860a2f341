"""Settings of data sets: their location, and how annotations and images are read. No jax here."""

import dataclasses
from collections.abc import Mapping

from yolos_jax.setting import YES, setting

CATEGORIES = ("raw", "contiguous")
BOXES = ("xywh", "xyxy", "xywh_shares", "xyxy_shares", "cxcywh_shares")  # formats of boxes


@dataclasses.dataclass(frozen=True)
class SplitSettings:
    """The location of the images, for detection and classification."""

    root: str = setting(
        "data/coco", "a data set, in any layout of docs/data.md: a folder, or a data.yaml", path=True, resume=YES,
        host=True, also=("path", "data_dir", "dataset", "data"),
    )  # fmt: skip
    train_split: str = setting(
        "train2017", "split to train on; other common names for it also match (train2017, train, training)",
        resume=YES,
    )  # fmt: skip
    val_split: str = setting(
        "val2017", "split to evaluate on; other common names for it also match (val2017, val, valid, validation)",
        resume=YES,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class AmountSettings:
    """The number of images, and the handling of unreadable ones."""

    max_images: int = setting(
        0, "maximum number of images per split: the first ones, or evenly spread ones for a classifier; 0 for all",
        low=0, high=10**9,
    )  # fmt: skip
    on_bad_image: str = setting(
        "stop", "on an unreadable or absent image: stop, or skip (it is reported and counted, and training uses "
        "another image instead)", choices=("stop", "skip"), resume=YES,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class AnnotationSettings:
    """How a detector's annotations and images are read if the data set does not determine it."""

    train_annotations: str = setting(
        "", "a COCO annotation file to train on, instead of the split's own; with TFDS, instead of the records' "
        "boxes", path=True, resume=YES, host=True,
    )  # fmt: skip
    train_images: str = setting(
        "", "folder of training images, instead of the split's own", path=True, resume=YES, host=True
    )
    val_annotations: str = setting("", "like train_annotations, for evaluation", path=True, resume=YES, host=True)
    val_images: str = setting("", "like train_images, for evaluation", path=True, resume=YES, host=True)
    categories: str = setting(
        "raw", "labels: raw (category ids) or contiguous (ids numbered 0, 1, ...)", choices=CATEGORIES
    )
    train_boxes: str = setting(
        "xywh", "format of the training boxes: xywh (COCO's x, y, width, height in pixels), xyxy (two corners in "
        "pixels), or relative to the image's sides: xywh_shares, xyxy_shares, cxcywh_shares", choices=BOXES,
        also=("box_format",),
    )  # fmt: skip
    val_boxes: str = setting("xywh", "like train_boxes, for evaluation", choices=BOXES, resume=YES)
    names: str = setting(
        "match", "if data and checkpoint, or the two splits, have different class names for the same id: match (by "
        "name if the sets of names are equal, else stop), or ids (match by id)", choices=("match", "ids"),
        resume=YES,
    )  # fmt: skip
    upright: str = setting(
        "auto", "apply the images' EXIF orientation: auto (whichever fits the boxes and sizes of a split's rotated "
        "images; upright if undetermined), yes, or no (as in the reference)", choices=("auto", "yes", "no"),
    )  # fmt: skip
    sixteen_bit: str = setting(
        "full", "white level of 16-bit images: full (65535), or stretch (the image's maximum, for images that use "
        "only 12 bits)", choices=("full", "stretch"),
    )  # fmt: skip
    sizes: str = setting(
        "annotated", "source of the images' sizes: annotated (the image files where a size is missing), or images "
        "(reads the header of every image first)", choices=("annotated", "images"),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settled:
    """Properties of a data set that a checkpoint or the training split determines."""

    category_ids: tuple[int, ...] | None = None  # the category id of every label
    label_names: Mapping[int, str] | None = None  # names by label
    by: str = "the checkpoint"  # their source
    refuse: bool = True  # report names that conflict and cannot be matched
    exif: str = ""  # orientation without evidence, "upright" or "stored"; "" for upright


@dataclasses.dataclass(frozen=True)
class SplitOptions:
    """How one split is read: its settings under `data.`, and what is already determined."""

    which: str = "train"  # or "val"
    num_classes: int = 0  # 0 derives it from the categories
    max_images: int = 0
    categories: str = "raw"
    boxes: str = "xywh"
    names: str = "match"
    upright: str = "auto"
    sixteen_bit: str = "full"
    sizes: str = "annotated"
    keep_absent: bool = False  # keep images without files; they count as unreadable, and a note gives their number
    settled: Settled = Settled()
