"""Reads and checks the splits of a data set before they are written as TFDS records."""

import hashlib
import io
import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from tqdm import tqdm

from yolos_jax.datasets.annotations import annotations_of
from yolos_jax.datasets.dataset import DataSet
from yolos_jax.datasets.examples import read_split
from yolos_jax.datasets.headers import ORIENTATION, SWAPS
from yolos_jax.datasets.opening import recognise
from yolos_jax.datasets.settings import SplitOptions
from yolos_jax.datasets.splits import MissingSplit, family_of
from yolos_jax.errors import InputError
from yolos_jax.images.reading import DAMAGED, UnreadableImage

OTHER_NAMES = {"train2017": "train", "val2017": "validation", "test2017": "test"}  # COCO split -> TFDS split
SPLIT_NAME = re.compile("[A-Za-z0-9_-]{1,100}")  # split names that TFDS allows in shard names
# Formats that all TFDS readers can decode to a single image; the encoded bytes are stored unchanged.
FORMATS = ("JPEG", "MPO", "PNG", "BMP")


class CheckedSplit(NamedTuple):
    """A checked split, ready to be written."""

    name: str  # name of the split in TFDS
    images: list[dict[str, Any]]  # entries of the annotation file, in the order of the records
    annotations: dict[int, list[dict[str, Any]]]  # annotations of each image id, sorted by their ids
    names: dict[int, str]  # category name of each id, in file order
    data: Callable[[int], bytes]  # image id -> encoded image
    size: int  # total size of the images in bytes
    notes: tuple[str, ...] = ()  # notes about its source


def read_parts(root: Path, splits: Sequence[str] = (), boxes: str = "xywh") -> list[CheckedSplit]:
    """Reads and checks splits of a data set in any layout, by default those for training and validation.

    Raises `InputError` for an invalid name, for two splits with the same name in TFDS, and as `read_part` does.
    """
    for split in splits:
        if not SPLIT_NAME.fullmatch(split) or split == "all":  # reserved in TFDS for all splits together
            names = "a name may have up to 100 characters (letters, digits, - or _) and must not be 'all'"
            raise InputError(f"TFDS does not allow a split named {split!r}; {names}.")
    for name, times in Counter(OTHER_NAMES.get(split, split) for split in splits).items():
        if times > 1:
            raise InputError(f"{times} of the splits {', '.join(splits)} would be written as {name}; list only one.")
    layout, found, notes = recognise(root)
    splits = splits or [split for split in found if family_of(split) in ("train", "val")]
    absent = [split for split in splits if split not in found]
    if absent or not splits:
        lacks = f"no split {absent[0]}" if absent else "no split for training or validation"
        raise MissingSplit(f"{root} ({layout}) has {lacks}; it has {', '.join(found)}.")
    options = SplitOptions(categories="contiguous", boxes=boxes)
    parts = [read_part(read_split(found[split], options), split) for split in splits]
    return [part._replace(notes=(*notes, *part.notes)) for part in parts]


def read_part(source: DataSet, split: str) -> CheckedSplit:
    """Checks a split; raises `InputError` for anything that TFDS cannot store correctly."""
    content, origin = source.ground_truth(), source.origin
    name = OTHER_NAMES.get(split, split)
    names = {c["id"]: str(c["name"]) for c in content["categories"]}
    # TFDS stores category names in a text file, one per line.
    bad = [category for category, text in names.items() if not text or text != " ".join(text.split())]
    if bad or len(set(names.values())) < len(names):
        what = f"category id {bad[0]} has the name {names[bad[0]]!r}" if bad else "two categories have the same name"
        raise InputError(f"{what} in {origin}; TFDS needs distinct one-line names without surrounding spaces.")
    # If TFDS cannot store an annotation id, all of them are renumbered, because detection does not use them.
    if not all(type(a.get("id")) is int and abs(a["id"]) < 2**63 for a in content["annotations"]):
        for number, annotation in enumerate(content["annotations"], 1):
            annotation["id"] = number
    for annotation in content["annotations"]:
        annotation.pop("segmentation", None)  # uses most of the memory
    content["annotations"].sort(key=lambda annotation: annotation["id"])
    by_image = annotations_of((image["id"] for image in content["images"]), content)
    images = sorted(content["images"], key=lambda image: _hash(name, image["file_name"]))
    for one, other in itertools.pairwise(images):
        if one["file_name"] == other["file_name"]:
            ids = f"image ids {one['id']} and {other['id']} in {origin}"
            raise InputError(f"{ids} have the same file name, {one['file_name']}; keep one of them.")
    examples = {example.image_id: example for example in source.examples}

    def data(image_id: int) -> bytes:
        return source.file_bytes(examples[image_id])

    with ThreadPoolExecutor() as pool:
        sizes = pool.map(lambda image: _check_image(image, examples[image["id"]].file, data), images)
        bar = tqdm(sizes, f"checking {split}", len(images), unit="image", mininterval=1.0)
        return CheckedSplit(name, images, by_image, names, data, sum(bar), source.notes)


def _hash(split: str, file_name: str) -> bytes:
    """Returns the sort key that TFDS uses for a record."""
    return hashlib.md5((split + file_name.replace("\\", "/")).encode(), usedforsecurity=False).digest()


def _check_image(image: dict[str, Any], file: str, data: Callable[[int], bytes]) -> int:
    """Returns the size of an image in bytes, and checks that it is readable and has the annotated width and height.

    The annotation may refer to the stored image or, if EXIF swaps the sides, to the upright image.
    """
    named = f"{file} (image id {image['id']})"
    try:
        encoded = data(image["id"])
        with Image.open(io.BytesIO(encoded)) as stored:
            kind, (width, height) = stored.format, stored.size
            swapped = stored.getexif().get(ORIENTATION, 1) in SWAPS
    except (*DAMAGED, UnreadableImage) as error:
        raise InputError(f"the image {named} cannot be read ({error}).") from error
    if kind not in FORMATS:
        raise InputError(f"the image {named} is in {kind} format, which TFDS cannot read; use JPEG or PNG.")
    fits = [(width, height), (height, width)] if swapped else [(width, height)]
    if (image["width"], image["height"]) not in fits:
        said = f"is annotated as {image['width']}x{image['height']}; repair the image or its annotation."
        raise InputError(f"{named} is {width}x{height} pixels but {said}")
    return len(encoded)


def one_list(parts: list[CheckedSplit]) -> dict[int, str]:
    """Returns the categories of all splits; raises `InputError` if they conflict."""
    first, names = parts[0], dict(parts[0].names)
    for part in parts[1:]:
        for category, name in part.names.items():
            if names.setdefault(category, name) != name:
                differ = f"{names[category]!r} in {first.name} but {name!r} in {part.name}"
                raise InputError(f"category id {category} is {differ}; all splits must list the same categories.")
    if len(set(names.values())) < len(names):
        raise InputError("splits use different ids for the same category name; all must list the same categories.")
    return names
