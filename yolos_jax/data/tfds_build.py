"""Writes a COCO folder as TFDS's data set `coco/2017`, record for record, without TensorFlow.

TFDS's own builder shuffles through TensorFlow's files once a split exceeds
1 GB. Its order is that of the hashes of the file names, which are known
beforehand, so the records are written in that order straight away.
"""

import hashlib
import itertools
import os
import shutil
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from tqdm import tqdm

from yolos_jax.data.coco import CocoSource
from yolos_jax.data.tfds_index import index_of
from yolos_jax.data.tfds_records import FORMAT, OTHER_NAMES, Records
from yolos_jax.errors import InputError, make_folder
from yolos_jax.pictures import DAMAGED

NAME, CONFIG, VERSION = "coco", "2017", "1.1.0"
SPLITS = ("train2017", "val2017")
# Formats that every reader of TFDS decodes to one picture; their bytes are stored as they are.
FORMATS = ("JPEG", "MPO", "PNG", "BMP")
SHARD = 64 << 20  # least bytes of a shard, if there are several; TFDS's numbers
MOST_SHARDS = 1024
MARGIN = 1.02  # of the space needed over the pictures' bytes
VISIBLE = 0.01  # pixels beyond its picture from which a box counts as clipped


class Part(NamedTuple):
    """A split of a COCO folder, checked, as it will be written.

    Attributes:
      name: of the split in TFDS.
      images: entries of the annotation file, in the order of the records.
      annotations: those of every image id, by their ids.
      names: category names by id, in the file's order.
      files: the picture of every image id.
      size: bytes of all pictures.
    """

    name: str
    images: list[dict[str, Any]]
    annotations: dict[int, list[dict[str, Any]]]
    names: dict[int, str]
    files: dict[int, Path]
    size: int


class Summary(NamedTuple):
    """What was written: the split, and its images, objects, objects clipped to their picture, shards."""

    split: str
    images: int
    objects: int
    clipped: int
    shards: int


def build(root: Path, out: Path, splits: Sequence[str] = ()) -> tuple[Path, list[Summary]]:
    """Writes `out/coco/2017/1.1.0` from the COCO folder `root`.

    Args:
      splits: such as `train2017`, written as `train` (and `val2017` as `validation`, others by their own
        names); by default those of train2017 and val2017 that `root` has.

    Returns:
      The folder, and a summary of every split.

    Raises:
      InputError: nothing or something wrong to write, a folder that exists already, or no space.
    """
    folder = out / NAME / CONFIG / VERSION
    if folder.exists():
        raise InputError(f"{folder} exists already; give another --out, or remove it.")
    parts = [read_part(root, split) for split in splits or _there(root)]
    names = _one_list(parts)
    make_folder(folder.parent)
    needed, free = int(MARGIN * sum(part.size for part in parts)), shutil.disk_usage(folder.parent).free
    if needed > free:
        raise InputError(
            f"{folder.parent} has {free / 1e9:.1f} GB left and the data set needs {needed / 1e9:.1f} GB; free some, "
            "or give another --out."
        )
    # Renamed when it is whole; readers and TFDS pass over folders of such a name.
    unfinished = folder.with_name(f"incomplete.{uuid.uuid4().hex[:6]}_{VERSION}")
    unfinished.mkdir()
    try:
        found = _write(unfinished, parts, names)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder, found


def _there(root: Path) -> list[str]:
    found = [split for split in SPLITS if (root / "annotations" / f"instances_{split}.json").is_file()]
    if not found:
        wanted = " or ".join(f"annotations/instances_{split}.json" for split in SPLITS)
        raise InputError(f"{root} is no COCO folder: it has no {wanted} (name other splits with --splits).")
    return found


def read_part(root: Path, split: str) -> Part:
    """Reads and checks a split; `InputError` for anything that TFDS could not store or would store wrongly."""
    source = CocoSource(root, split, categories="contiguous")  # checks the annotations, and that pictures exist
    content, origin = source.listed(), source.annotation_file
    name = OTHER_NAMES.get(split, split)
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    # TFDS keeps names in a file of lines.
    bad = [category for category, text in names.items() if not text or text != " ".join(text.split())]
    if bad or len(set(names.values())) < len(names):
        what = f"category id {bad[0]} has the name {names[bad[0]]!r}" if bad else "two categories share a name"
        raise InputError(f"{what} in {origin}; TFDS needs different names of one line without spaces around.")
    _number(content["annotations"])
    by_image: dict[int, list] = {image["id"]: [] for image in content["images"]}
    for annotation in sorted(content["annotations"], key=lambda a: a["id"]):
        annotation.pop("segmentation", None)  # most of the memory
        by_image[annotation["image_id"]].append(annotation)
    images = sorted(content["images"], key=lambda image: _hash(name, image["file_name"]))
    for one, other in itertools.pairwise(images):
        if one["file_name"] == other["file_name"]:
            raise InputError(
                f"image ids {one['id']} and {other['id']} of {origin} share the picture {one['file_name']}; "
                "keep one of them."
            )
    files = {image["id"]: source.pictures / image["file_name"] for image in images}
    with ThreadPoolExecutor() as pool:
        sizes = pool.map(_check_picture, images, files.values())
        bar = tqdm(sizes, f"checking {split}", len(images), unit="picture", mininterval=1.0)
        return Part(name, images, by_image, names, files, sum(bar))


def _number(annotations: list[dict[str, Any]]) -> None:
    """Ids for all if one has none that TFDS can store; detection reads no ids."""
    if all(type(a.get("id")) is int and abs(a["id"]) < 2**63 for a in annotations):
        return
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number


def _hash(split: str, file_name: str) -> bytes:
    """TFDS's sorting key of a record."""
    return hashlib.md5((split + file_name.replace("\\", "/")).encode(), usedforsecurity=False).digest()


def _check_picture(image: dict[str, Any], path: Path) -> int:
    """Bytes of a picture, whose header must agree with its annotation."""
    try:
        with Image.open(path) as picture:
            kind, size = picture.format, picture.size
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise InputError(f"the picture {path} (image id {image['id']}) cannot be read ({error}).") from error
    if kind not in FORMATS:
        raise InputError(
            f"the picture {path} (image id {image['id']}) is {kind}, which TFDS cannot read; use JPEG or PNG."
        )
    if size != (image["width"], image["height"]):
        raise InputError(
            f"{path} (image id {image['id']}) is {size[0]}x{size[1]} pixels but its annotation says "
            f"{image['width']}x{image['height']}; mend one of them."
        )
    return path.stat().st_size


def _one_list(parts: list[Part]) -> dict[int, str]:
    """The categories of all splits: labels are numbered alike."""
    names = dict(parts[0].names)
    for part in parts[1:]:
        for category, name in part.names.items():
            if names.setdefault(category, name) != name:
                raise InputError(
                    f"category id {category} is {names[category]!r} in {parts[0].name} and {name!r} in {part.name}; "
                    "all splits must list the same categories."
                )
    if len(set(names.values())) < len(names):
        raise InputError("two categories of different splits share a name; all must list the same categories.")
    return names


def features_of(names: Sequence[str]) -> Any:
    """The features of TFDS's `coco/2017`, for these labels."""
    import numpy as np
    import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel(names=list(names))
    one = {"id": np.int64, "area": np.int64, "bbox": tfds.features.BBoxFeature(), "label": label, "is_crowd": np.bool_}
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            "objects": tfds.features.Sequence(one),
        }
    )


def _write(folder: Path, parts: list[Part], names: dict[int, str]) -> list[Summary]:
    """Writes shards, then what describes them, and reads all of it back."""
    import tensorflow_datasets as tfds

    features = features_of(list(names.values()))
    infos, found = [], []
    for part in parts:
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=NAME, split=part.name, filetype_suffix=FORMAT
        )
        lengths, size, clipped = _write_shards(template, part, names, features)
        infos.append(tfds.core.SplitInfo(part.name, lengths, size, filename_template=template))
        objects = sum(map(len, part.annotations.values()))
        found.append(Summary(part.name, len(part.images), objects, clipped, len(lengths)))
    identity = tfds.core.DatasetIdentity(
        NAME, tfds.core.Version(VERSION), str(folder), __name__, CONFIG, "Pictures, boxes and labels of COCO 2017."
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description="COCO, prepared from a folder by yolos-jax.",
        features=features,
        homepage="https://cocodataset.org",
        metadata=tfds.core.MetadataDict(category_ids=list(names)),
    )
    info.set_file_format(FORMAT)
    info.set_splits(tfds.core.SplitDict(infos))
    info.write_to_directory(folder)
    for part, one in zip(parts, found):
        index = index_of(Records(folder, part.name))  # which stays beside the shards
        if index.image_ids.tolist() != [i["id"] for i in part.images] or len(index.ids) != one.objects:
            raise RuntimeError(f"the records of {part.name} are not those that were written; this is a bug")
    return found


def _write_shards(template: Any, part: Part, names: dict[int, str], features: Any) -> tuple[list[int], int, int]:
    """(records of every shard, bytes of all records, clipped boxes)."""
    from array_record.python.array_record_module import ArrayRecordWriter

    count = shards_of(part.size, len(part.images))
    ends = [round(len(part.images) * (shard + 1) / count) for shard in range(count)]
    starts, size, clipped = [0, *ends[:-1]], 0, 0
    with tqdm(total=len(part.images), desc=f"writing {part.name}", unit="record", mininterval=1.0) as bar:
        for shard, (start, end) in enumerate(zip(starts, ends)):
            path = template.sharded_filepath(shard_index=shard, num_shards=count)
            writer = ArrayRecordWriter(os.fspath(path), "group_size:1")
            for image in part.images[start:end]:
                objects, cut = _objects(image, part.annotations[image["id"]], names)
                record = _record(image, part.files[image["id"]], objects)
                data = features.serialize_example(features.encode_example(record))
                writer.write(data)
                size, clipped = size + len(data), clipped + cut
                bar.update()
            writer.close()
    return [end - start for start, end in zip(starts, ends)], size, clipped


def shards_of(size: int, images: int) -> int:
    """TFDS's number of shards: a power of two, of 64 MiB at least each."""
    count = 1
    while count < MOST_SHARDS and 2 * count * SHARD <= size and 2 * count <= images:
        count *= 2
    return count


def _record(image: dict[str, Any], path: Path, objects: list[dict[str, Any]]) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"the picture {path} (image id {image['id']}) cannot be read ({error.strerror}).") from error
    return {"image": data, "image/filename": image["file_name"], "image/id": image["id"], "objects": objects}


def _objects(image: dict[str, Any], annotations: list[dict[str, Any]], names: dict[int, str]) -> tuple[list, int]:
    """An image's objects as TFDS stores them, and how many boxes had to be clipped, as TFDS stores only 0..1."""
    import tensorflow_datasets as tfds

    sides, out, clipped = (image["height"], image["width"]) * 2, [], 0
    for annotation in annotations:
        x, y, width, height = annotation["bbox"]
        box = [v / side for v, side in zip((y, x, y + height, x + width), sides)]
        inside = [min(max(v, 0.0), 1.0) for v in box]
        clipped += any(abs(a - b) * side > VISIBLE for a, b, side in zip(box, inside, sides))
        area = annotation.get("area")
        out.append(
            {
                "id": annotation["id"],
                "area": min(int(width * height if area is None else area), 2**63 - 1),
                "bbox": tfds.features.BBox(*inside),
                "label": names[annotation["category_id"]],
                "is_crowd": bool(annotation.get("iscrowd")),
            }
        )
    return out, clipped
