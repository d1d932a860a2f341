"""Reads the splits of a COCO folder that are to be written as TFDS data, and checks that they can be."""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from tqdm import tqdm

from yolos_jax.datasets.coco import CocoSource
from yolos_jax.datasets.tfds.records import OTHER_NAMES
from yolos_jax.errors import InputError
from yolos_jax.images.headers import ORIENTATION, SWAPS
from yolos_jax.images.reading import DAMAGED

SPLITS = ("train2017", "val2017")
SPLIT_NAME = re.compile("[A-Za-z0-9_-]{1,100}")  # what TFDS makes names of shards of
# Formats that every reader of TFDS decodes to one image; their bytes are stored as they are.
FORMATS = ("JPEG", "MPO", "PNG", "BMP")


class Part(NamedTuple):
    """A split of a COCO folder, checked, as it will be written."""

    name: str  # of the split in TFDS
    images: list[dict[str, Any]]  # entries of the annotation file, in the order of the records
    annotations: dict[int, list[dict[str, Any]]]  # those of every image id, by their ids
    names: dict[int, str]  # of categories by id, in the file's order
    files: dict[int, Path]  # the image of every image id
    size: int  # bytes of all images


def read_parts(root: Path, splits: Sequence[str] = ()) -> list[Part]:
    """Reads and checks splits, by default those of train2017 and val2017 that `root` has.

    `InputError` if a split cannot be stored under its name, if two would share one, and as `read_part`.
    """
    splits = splits or [split for split in SPLITS if (root / "annotations" / f"instances_{split}.json").is_file()]
    if not splits:
        wanted = " or ".join(f"annotations/instances_{split}.json" for split in SPLITS)
        raise InputError(f"{root} is no COCO folder: it has no {wanted} (name other splits with --splits).")
    for split in splits:
        if not SPLIT_NAME.fullmatch(split) or split == "all":  # which means all splits to TFDS
            names = "call it by at most 100 letters, digits, - and _, and not all"
            raise InputError(f"TFDS cannot have a split {split!r}; {names}.")
    for name, times in Counter(OTHER_NAMES.get(split, split) for split in splits).items():
        if times > 1:
            raise InputError(f"{times} of the splits {', '.join(splits)} would be written as {name}; name it once.")
    return [read_part(root, split) for split in splits]


def read_part(root: Path, split: str) -> Part:
    """Reads and checks a split; `InputError` for anything that TFDS could not store or would store wrongly."""
    source = CocoSource(root, split, categories="contiguous")  # checks the annotations, and that images exist
    content, origin = source.listed(), source.annotation_file
    name = OTHER_NAMES.get(split, split)
    names = {c["id"]: str(c["name"]) for c in content["categories"]}
    # TFDS keeps names in a file of lines.
    bad = [category for category, text in names.items() if not text or text != " ".join(text.split())]
    if bad or len(set(names.values())) < len(names):
        what = f"category id {bad[0]} has the name {names[bad[0]]!r}" if bad else "two categories share a name"
        raise InputError(f"{what} in {origin}; TFDS needs different names of one line without spaces around.")
    # Detection reads no ids: all are numbered anew if one has none that TFDS can store.
    if not all(type(a.get("id")) is int and abs(a["id"]) < 2**63 for a in content["annotations"]):
        for number, annotation in enumerate(content["annotations"], 1):
            annotation["id"] = number
    by_image: dict[int, list] = {image["id"]: [] for image in content["images"]}
    for annotation in sorted(content["annotations"], key=lambda a: a["id"]):
        annotation.pop("segmentation", None)  # most of the memory
        if annotation["image_id"] in by_image:  # others are ignored
            by_image[annotation["image_id"]].append(annotation)
    images = sorted(content["images"], key=lambda image: _hash(name, image["file_name"]))
    for one, other in itertools.pairwise(images):
        if one["file_name"] == other["file_name"]:
            ids = f"image ids {one['id']} and {other['id']} of {origin}"
            raise InputError(f"{ids} share the image {one['file_name']}; keep one of them.")
    found = {example.image_id: Path(example.file) for example in source.examples}
    files = {image["id"]: found[image["id"]] for image in images}  # in the records' order
    with ThreadPoolExecutor() as pool:
        sizes = pool.map(_check_image, images, files.values())
        bar = tqdm(sizes, f"checking {split}", len(images), unit="image", mininterval=1.0)
        return Part(name, images, by_image, names, files, sum(bar))


def _hash(split: str, file_name: str) -> bytes:
    """TFDS's sorting key of a record."""
    return hashlib.md5((split + file_name.replace("\\", "/")).encode(), usedforsecurity=False).digest()


def _check_image(image: dict[str, Any], path: Path) -> int:
    """Bytes of an image, whose header must agree with its annotation, as stored or as EXIF turns it."""
    named = f"{path} (image id {image['id']})"
    try:
        with Image.open(path) as stored:
            kind, (width, height) = stored.format, stored.size
            swapped = stored.getexif().get(ORIENTATION, 1) in SWAPS
    except DAMAGED as error:
        raise InputError(f"the image {named} cannot be read ({error}).") from error
    if kind not in FORMATS:
        raise InputError(f"the image {named} is {kind}, which TFDS cannot read; use JPEG or PNG.")
    fits = [(width, height), (height, width)] if swapped else [(width, height)]
    if (image["width"], image["height"]) not in fits:
        said = f"its annotation says {image['width']}x{image['height']}; repair one of them."
        raise InputError(f"{named} is {width}x{height} pixels but {said}")
    return path.stat().st_size


def one_list(parts: list[Part]) -> dict[int, str]:
    """The categories of all splits: labels are numbered alike."""
    first, names = parts[0], dict(parts[0].names)
    for part in parts[1:]:
        for category, name in part.names.items():
            if names.setdefault(category, name) != name:
                differ = f"{names[category]!r} in {first.name} and {name!r} in {part.name}"
                raise InputError(f"category id {category} is {differ}; all splits must list the same categories.")
    if len(set(names.values())) < len(names):
        raise InputError("two categories of different splits share a name; all must list the same categories.")
    return names
