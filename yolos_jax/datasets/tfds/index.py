"""Builds and caches an index of all records of a TFDS data set.

TFDS stores neither image sizes, which are needed to plan batches, nor a table of image ids. The index is built in a
single pass over all records, which reads only the header of each image.
"""

import contextlib
import hashlib
import os
import uuid
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from yolos_jax.datasets.headers import header_of
from yolos_jax.datasets.tfds.records import ANEW, Records
from yolos_jax.errors import InputError, user_cache

LAYOUT = 2  # version of the cache file format


class Index(NamedTuple):
    """The content of `n` records with `m` objects in total, without pixels."""

    image_ids: np.ndarray  # int64 [n]
    file_names: np.ndarray  # str [n]
    sizes: np.ndarray  # int64 [n, 2]: (width, height) in pixels from the image header; 0 if it cannot be read
    turns: np.ndarray  # int64 [n]: EXIF orientation of the image; 1 is upright
    counts: np.ndarray  # int64 [n]: number of objects per record
    ids: np.ndarray  # int64 [m]
    areas: np.ndarray  # int64 [m]
    labels: np.ndarray  # int64 [m]
    boxes: np.ndarray  # float32 [m, 4]: ymin, xmin, ymax, xmax relative to the image size
    crowds: np.ndarray  # bool [m]


def index_of(records: Records) -> Index:
    """Loads the index from the cache, or builds it by reading all records."""
    key, places = _key(records), _places(records)
    for place in places:
        kept = _load(place, key, len(records))
        if kept is not None:
            return kept
    index = _read(records)
    for place in places:
        if _save(place, key, index):
            break
    return index


def _read(records: Records) -> Index:
    images, objects = [], []
    for number in tqdm(range(len(records)), f"reading {records}", unit="record", mininterval=1.0):
        try:
            record = records[number]
        except RuntimeError as error:
            raise InputError(f"record {number} of {records} cannot be read ({error}); {ANEW}") from error
        header = header_of(record["image"])
        images.append((record["image/id"], record["image/filename"], header.size, header.orientation))
        objects.append(record["objects"])

    def every(key: str, dtype: type, *shape: int) -> np.ndarray:
        none: np.ndarray = np.zeros((0, *shape), dtype)
        return np.concatenate([none, *(np.asarray(one[key], dtype).reshape(-1, *shape) for one in objects)])

    return Index(
        image_ids=np.array([image_id for image_id, *_ in images], np.int64),
        file_names=np.array([name for _, name, *_ in images], np.str_),
        sizes=np.array([size for _, _, size, _ in images], np.int64).reshape(-1, 2),
        turns=np.array([turn for *_, turn in images], np.int64),
        counts=np.array([len(one["id"]) for one in objects], np.int64),
        ids=every("id", np.int64),
        areas=every("area", np.int64),
        labels=every("label", np.int64),
        boxes=every("bbox", np.float32, 4),
        crowds=every("is_crowd", np.bool_),
    )


def _key(records: Records) -> str:
    """Returns a cache key that changes if the shards change."""
    facts = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in records.shards]
    return hashlib.sha256(repr((LAYOUT, facts)).encode()).hexdigest()


def _places(records: Records) -> list[Path]:
    """Returns possible paths of the cached index: next to the shards, then in the user's cache folder."""
    name = hashlib.sha256(str(records.directory.resolve()).encode()).hexdigest()[:16]
    return [records.directory / f"yolos-jax.{records.split}.npz", user_cache() / f"{name}.{records.split}.npz"]


def _load(path: Path, key: str, n: int) -> Index | None:
    """Loads a cached index of `n` records; returns None if it belongs to different shards or is invalid.

    The file is checked because it is untrusted.
    """
    try:
        if not _is_plain(path):
            return None
        with np.load(path, allow_pickle=False) as kept:
            index = Index(*(kept[name] for name in Index._fields))
            return index if str(kept["key"]) == key and _is_whole(index, n) else None
    except Exception:  # damaged or malicious files raise various exceptions, even MemoryError
        return None


def _is_plain(path: Path) -> bool:
    """Whether all zip entries are uncompressed and their sizes add up to at most the file size, so none overlap."""
    if not path.is_file():
        return False
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    return stored and sum(entry.file_size for entry in entries) <= path.stat().st_size


def _is_whole(index: Index, n: int) -> bool:
    """Whether the arrays have the dtypes and shapes documented in `Index`, for `n` records."""
    m = len(index.ids)
    images: list[tuple[type, tuple]] = [(np.int64, (n,)), (np.str_, (n,)), (np.int64, (n, 2)), *[(np.int64, (n,))] * 2]
    objects = [*[(np.int64, (m,))] * 3, (np.float32, (m, 4)), (np.bool_, (m,))]
    if not all(array.dtype.type is t and array.shape == s for array, (t, s) in zip(index, images + objects)):
        return False
    index.file_names.tolist()  # raises an error if a name is not valid text
    fits = all(0 <= count <= m for count in index.counts.tolist()) and int(index.counts.sum()) == m
    return fits and bool(((index.sizes >= 0) & (index.sizes < 10**6)).all())


def _save(path: Path, key: str, index: Index) -> bool:
    """Caches an index atomically, so several processes can do so at once. Returns whether it was saved."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            np.savez(file, key=np.array(key), **index._asdict())
        os.replace(part, path)
        return True
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        return False
