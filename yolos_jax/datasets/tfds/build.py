"""Writes a data set as TFDS's `coco/2017` without TensorFlow; for a COCO folder, the records are the same as TFDS's.

TFDS's own builder shuffles through TensorFlow's files once a split exceeds 1 GB. Its order is that of the hashes of
the file names, which are known in advance, so the records are written in that order directly.
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
SHARD = 64 << 20  # minimum bytes per shard if there are several, as in TFDS
MOST_SHARDS = 1024
MARGIN = 1.02  # needed space / the images' bytes
VISIBLE = 0.01  # pixels outside its image from which a box counts as clipped


class Summary(NamedTuple):
    """A summary of a written split; `clipped` is the number of objects clipped to their image."""

    split: str
    images: int
    objects: int
    clipped: int
    shards: int
    notes: tuple[str, ...] = ()  # notes about its source


def build_records(root: Path, out: Path, splits: Sequence[str] = (), boxes: str = "xywh") -> tuple[Path, list[Summary]]:
    """Writes `out/coco/2017/1.1.0` from the data set `root`, in any layout.

    Args:
      splits: such as `train2017`, written as `train` (and `val2017` as `validation`, others under their own names);
        by default the training and validation splits of `root`.
      boxes: format of the boxes, like `data.train_boxes`.

    Returns:
      The folder, and a summary of every split; `InputError` for an empty or invalid split, an existing folder, or too
      little space.
    """
    folder = out / NAME / CONFIG / VERSION
    if folder.exists():
        raise InputError(f"{folder} exists already; choose another --out, or remove it.")
    parts = read_parts(root, splits, boxes)
    names = one_list(parts)
    make_folder(folder.parent)
    needed = int(MARGIN * sum(part.size for part in parts))
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        space = f"{free / 1e9:.1f} GB left but the data set needs {needed / 1e9:.1f} GB"
        raise InputError(f"{folder.parent} has {space}; free some space, or choose another --out.")
    # Renamed when complete; readers and TFDS skip folders with such a name.
    unfinished = folder.with_name(f"incomplete.{uuid.uuid4().hex[:6]}_{VERSION}")
    unfinished.mkdir()
    try:
        found = _write(unfinished, parts, names)
        try:
            unfinished.rename(folder)
        except OSError as error:
            if not folder.exists():
                raise
            other = f"another build wrote {folder} in the meantime; it was kept"
            raise InputError(f"{other}, and the result of this build was discarded.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder, found


def features_of(names: Sequence[str]) -> Any:
    """The features of TFDS's `coco/2017`, for these labels."""
    label = tfds.features.ClassLabel(names=list(names))
    one = {"id": np.int64, "area": np.int64, "bbox": tfds.features.BBoxFeature(), "label": label, "is_crowd": np.bool_}
    image = {"image": tfds.features.Image(encoding_format="jpeg"), "image/filename": tfds.features.Text()}
    return tfds.features.FeaturesDict(image | {"image/id": np.int64, "objects": tfds.features.Sequence(one)})


def _write(folder: Path, parts: list[CheckedSplit], names: dict[int, str]) -> list[Summary]:
    """Writes shards and their metadata, and reads everything back."""
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
        index = index_of(Records(folder, part.name))  # is stored beside the shards
        if index.image_ids.tolist() != [i["id"] for i in part.images] or len(index.ids) != one.objects:
            raise RuntimeError(f"the records of {part.name} differ from the written ones; this is a bug")
    return found


def _write_shards(
    template: Any, part: CheckedSplit, names: dict[int, str], features: Any
) -> tuple[list[int], int, int]:
    """(records per shard, bytes of all records, number of clipped boxes)."""
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
    """TFDS's number of shards: the largest power of two with at least 64 MiB and one image per shard."""
    return 1 << max(min(MOST_SHARDS, size // SHARD, images).bit_length() - 1, 0)


def _record(image: dict[str, Any], data: bytes, objects: list[dict[str, Any]]) -> dict[str, Any]:
    return {"image": data, "image/filename": image["file_name"], "image/id": image["id"], "objects": objects}


def _objects(image: dict[str, Any], annotations: list[dict[str, Any]], names: dict[int, str]) -> tuple[list, int]:
    """An image's objects as TFDS stores them, and the number of clipped boxes; TFDS stores only 0..1."""
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
