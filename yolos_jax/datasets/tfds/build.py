"""Writes a data set as TFDS `coco/2017` without TensorFlow.

For a COCO folder, the records are identical to those written by TFDS. The TFDS builder needs TensorFlow to shuffle a
split larger than 1 GB. It sorts records by hashes of the file names. These are known in advance, so this module writes
the records directly in that order.
"""

import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from yolos_jax.datasets.tfds.index import index_of
from yolos_jax.datasets.tfds.parts import CheckedSplit, one_list, read_parts
from yolos_jax.datasets.tfds.records import FORMAT, Records, load_tfds
from yolos_jax.errors import InputError, make_folder

tfds = load_tfds()

NAME = "coco"
CONFIG = "2017"
VERSION = "1.1.0"
SHARD = 64 << 20  # minimum shard size in bytes if a split has more than one shard, as in TFDS
MOST_SHARDS = 1024
MARGIN = 1.02  # required disk space, as a multiple of the size of all images
VISIBLE = 0.01  # a box counts as clipped if it extends beyond its image by more than this, in pixels


class Summary(NamedTuple):
    """A summary of a written split; `clipped` is the number of boxes clipped to their image."""

    split: str
    images: int
    objects: int
    clipped: int
    shards: int
    notes: tuple[str, ...] = ()  # notes about its source


def build_records(root: Path, out: Path, splits: Sequence[str] = (), boxes: str = "xywh") -> tuple[Path, list[Summary]]:
    """Converts the data set in `root`, in any layout, to TFDS records in `out/coco/2017/1.1.0`.

    Args:
      root: the data set to convert.
      out: the parent folder of the result.
      splits: names of splits, by default the training and validation splits of `root`. COCO splits are renamed as in
        TFDS, for example `train2017` to `train`; other names are kept.
      boxes: box format, with the same values as `data.train_boxes`.

    Returns:
      The folder, and a summary of each split.

    Raises:
      InputError: a split is empty or invalid, the folder exists, or there is not enough disk space.
    """
    folder = out / NAME / CONFIG / VERSION
    if folder.exists():
        raise InputError(f"{folder} already exists; choose another --out, or remove it.")
    parts = read_parts(root, splits, boxes)
    names = one_list(parts)
    make_folder(folder.parent)
    needed = int(MARGIN * sum(part.size for part in parts))
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        space = f"{free / 1e9:.1f} GB of free space but the data set needs {needed / 1e9:.1f} GB"
        raise InputError(f"{folder.parent} has {space}; free some space, or choose another --out.")
    # The folder is renamed when it is complete. TFDS and `find_dataset` ignore folders with this prefix.
    unfinished = folder.with_name(f"incomplete.{uuid.uuid4().hex[:6]}_{VERSION}")
    unfinished.mkdir()
    try:
        found = _write(unfinished, parts, names)
        try:
            unfinished.rename(folder)
        except OSError as error:
            if not folder.exists():
                raise
            other = f"another process wrote {folder} in the meantime; it was kept"
            raise InputError(f"{other}, and the result of this process was discarded.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder, found


def features_of(names: Sequence[str]) -> Any:
    """Returns the features of TFDS `coco/2017` with these label names."""
    label = tfds.features.ClassLabel(names=list(names))
    one = {"id": np.int64, "area": np.int64, "bbox": tfds.features.BBoxFeature(), "label": label, "is_crowd": np.bool_}
    image = {"image": tfds.features.Image(encoding_format="jpeg"), "image/filename": tfds.features.Text()}
    return tfds.features.FeaturesDict(image | {"image/id": np.int64, "objects": tfds.features.Sequence(one)})


def _write(folder: Path, parts: list[CheckedSplit], names: dict[int, str]) -> list[Summary]:
    """Writes shards and metadata, then reads all records to check their image ids and number of objects."""
    features = features_of(list(names.values()))
    infos, found = [], []
    for part in parts:
        names_of = {"data_dir": folder, "dataset_name": NAME, "split": part.name, "filetype_suffix": FORMAT}
        template = tfds.core.ShardedFileTemplate(**names_of)
        lengths, size, clipped = _write_shards(template, part, names, features)
        infos.append(tfds.core.SplitInfo(part.name, lengths, size, filename_template=template))
        objects = sum(map(len, part.annotations.values()))
        found.append(Summary(part.name, len(part.images), objects, clipped, len(lengths), part.notes))
    about = CONFIG, "Images, boxes and labels of COCO 2017."
    identity = tfds.core.DatasetIdentity(NAME, tfds.core.Version(VERSION), str(folder), __name__, *about)
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
        index = index_of(Records(folder, part.name))  # also caches the index next to the shards
        if index.image_ids.tolist() != [i["id"] for i in part.images] or len(index.ids) != one.objects:
            raise RuntimeError(f"the records of {part.name} differ from their source; this is a bug")
    return found


def _write_shards(
    template: Any, part: CheckedSplit, names: dict[int, str], features: Any
) -> tuple[list[int], int, int]:
    """Writes the shards of a split. Returns (records per shard, total size in bytes, number of clipped boxes)."""
    from array_record.python.array_record_module import ArrayRecordWriter

    count = shards_of(part.size, len(part.images))
    ends = [round(len(part.images) * (shard + 1) / count) for shard in range(count)]
    starts = [0, *ends[:-1]]
    size = 0
    clipped = 0
    with tqdm(total=len(part.images), desc=f"writing {part.name}", unit="record", mininterval=1.0) as bar:
        for shard, (start, end) in enumerate(zip(starts, ends)):
            path = template.sharded_filepath(shard_index=shard, num_shards=count)
            writer = ArrayRecordWriter(os.fspath(path), "group_size:1")
            for image in part.images[start:end]:
                objects, cut = _objects(image, part.annotations[image["id"]], names)
                record = _record(image, part.data(image["id"]), objects)
                data = features.serialize_example(features.encode_example(record))
                writer.write(data)
                size, clipped = size + len(data), clipped + cut
                bar.update()
            writer.close()
    return [end - start for start, end in zip(starts, ends)], size, clipped


def shards_of(size: int, images: int) -> int:
    """Returns the number of shards, as in TFDS: the largest power of two with at least 64 MiB per shard.

    There is at least one shard, at most `MOST_SHARDS`, and at least one image per shard.
    """
    return 1 << max(min(MOST_SHARDS, size // SHARD, images).bit_length() - 1, 0)


def _record(image: dict[str, Any], data: bytes, objects: list[dict[str, Any]]) -> dict[str, Any]:
    return {"image": data, "image/filename": image["file_name"], "image/id": image["id"], "objects": objects}


def _objects(image: dict[str, Any], annotations: list[dict[str, Any]], names: dict[int, str]) -> tuple[list, int]:
    """Returns an image's objects in TFDS format (coordinates from 0 to 1), and the number of clipped boxes."""
    sides = (image["height"], image["width"]) * 2
    out = []
    clipped = 0
    for annotation in annotations:
        x, y, width, height = annotation["bbox"]
        box = [v / side for v, side in zip((y, x, y + height, x + width), sides)]
        inside = [min(max(v, 0.0), 1.0) for v in box]
        clipped += any(abs(a - b) * side > VISIBLE for a, b, side in zip(box, inside, sides))
        area = annotation.get("area")
        one = {"id": annotation["id"], "area": min(int(width * height if area is None else area), 2**63 - 1)}
        one |= {"bbox": tfds.features.BBox(*inside), "label": names[annotation["category_id"]]}
        out.append(one | {"is_crowd": bool(annotation.get("iscrowd"))})
    return out, clipped
