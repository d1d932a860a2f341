"""Random access to the records of a prepared TFDS data set in array_record format."""

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolos_jax.datasets.coco_names import COCO_NAMES
from yolos_jax.datasets.splits import choose
from yolos_jax.errors import InputError
from yolos_jax.user_files import MissingFile, check_file, read_text

INFO = "dataset_info.json"  # TFDS writes this file last, so a folder without it is incomplete
FORMAT = "array_record"
DEPTH = 3  # NAME/CONFIG/VERSION
UNFINISHED = (".", "incomplete.")  # prefixes of folders that TFDS is still writing
# Required fields of a record, with the TFDS feature class or the dtype of a number.
FIELDS = {"image": "Image", "image/filename": "Text", "image/id": "int64", "objects/area": "int64"}
FIELDS |= {"objects/bbox": "BBoxFeature", "objects/id": "int64", "objects/is_crowd": "bool"}
FIELDS |= {"objects/label": "ClassLabel"}
NAMES = "objects-label.labels.txt"
LEAST_SHARD = 65536  # minimum size of an array_record file in bytes
ANEW = "copy or prepare the data set again."


def find_dataset(root: str | Path, most: int = DEPTH) -> Path | None:
    """Finds the folder of a TFDS data set: `root` itself, or the only one below it (such as `root/coco/2017/1.1.0`).

    Returns None if there is none or if `root` is a COCO folder. Raises `InputError` if there are several or if the
    preparation of `root` is incomplete. Subfolders are searched to a depth of `most`.
    """
    root = Path(root)
    if (root / INFO).is_file():
        return root
    if (root / "features.json").is_file() or any(root.glob(f"*.{FORMAT}-*")):
        raise InputError(f"{root} looks like a TFDS data set but has no {INFO}: its preparation is incomplete.")
    if (root / "annotations").is_dir():
        return None
    deep = [path for depth in range(1, most + 1) for path in root.glob("*/" * depth + INFO)]
    found = [p.parent for p in deep if not any(n.startswith(UNFINISHED) for n in p.relative_to(root).parts)]
    if len(found) > 1:
        raise InputError(f"{root} contains several data sets, {', '.join(map(str, sorted(found)))}; choose one.")
    return found[0] if found else None


def splits_of(directory: Path) -> list[str]:
    """Lists the splits of a TFDS data set in a folder from `find_dataset`; raises `InputError` as `Records` does."""
    return sorted(_builder(directory).info.splits)


class Records:
    """One split of a TFDS data set with the features of `coco/2017`, stored as array_record.

    `directory` is the folder with `dataset_info.json`. COCO split names are also accepted: `train2017` is `train`, and
    `val2017` is `validation`. Raises `InputError` if the data set has different features or a different format, or
    lacks the split or one of its shards. Open files are not pickled.

    Attributes:
      split: the name of the split in the data set.
      names, category_ids: the name and category id of each label; `category_ids` is None if not stored.
      shards: paths of the shards.
    """

    # Required fields, a description of such data sets, and the file with the label names.
    fields = FIELDS
    kind = "TFDS coco/2017"
    names_file = NAMES

    def __init__(self, directory: Path, split: str):
        self.directory, info = directory, _builder(directory).info
        self._check_features(info.features)
        splits = info.splits
        self.split, _ = choose(split, sorted(splits), str(directory))
        self._length = int(splits[self.split].num_examples)
        self.shards = [Path(str(path)) for path in splits[self.split].filepaths]
        self._check_shards(splits[self.split].shard_lengths)
        labels = dict(info.features).get("objects", info.features)
        self.names: Sequence[str] = self._read_names(labels["label"].num_classes)
        self.category_ids = self._ids(info.metadata.get("category_ids"))

    def __len__(self) -> int:
        return self._length

    def __str__(self) -> str:
        return f"{self.directory} ({self.split})"

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_open"}

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Returns a record with its encoded image; raises `RuntimeError` if it is damaged or its shard is missing."""
        return self._decoded(number, "whole")

    def image(self, number: int) -> bytes:
        """Returns only the encoded image of a record, in half the time; raises `RuntimeError` like `__getitem__`."""
        return self._decoded(number, "image")["image"]

    def _decoded(self, number: int, what: str) -> dict[str, Any]:
        data, features, decoders = self._open
        try:
            return features[what].deserialize_example_np(data[number], decoders=decoders)
        except (ValueError, IndexError, KeyError, TypeError) as error:  # fewer or different records than expected
            raise RuntimeError(str(error)) from error

    @functools.cached_property
    def _open(self) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """The data source of the split, features to decode, and decoders; opened once per process."""
        tfds = load_tfds()
        builder, raw = _builder(self.directory), tfds.decode.DeserializeMethod.RAW_BYTES
        data, features = builder.as_data_source(split=self.split, deserialize_method=raw), builder.info.features
        parts = {"image": ["image"], "labelled": [name for name in ("image", "label") if name in features]}
        some = {what: tfds.features.FeaturesDict({n: features[n] for n in names}) for what, names in parts.items()}
        return data, {"whole": features, **some}, {"image": tfds.decode.SkipDecoding()}

    def _check_features(self, features: Any) -> None:
        inner: Any = getattr(features["objects"], "feature", None) if "objects" in features else None
        present = dict(features)
        present |= {f"objects/{key}": inner[key] for key in (inner if hasattr(inner, "keys") else ())}
        foreign = f"the records of {self.directory} do not match {self.kind}"
        lacking = self.fields.keys() - present.keys()
        if lacking:
            raise InputError(f"{foreign}: they lack {', '.join(sorted(lacking))}.")
        for key, kind in self.fields.items():
            found = type(present[key]).__name__
            if found in ("Tensor", "Scalar"):
                found = f"{np.dtype(present[key].np_dtype)}{list(present[key].shape) or ''}"
            if found != kind:
                raise InputError(f"{foreign}: {key} is {found} but must be {kind}.")

    def _check_shards(self, lengths: list[int]) -> None:
        """Checks all shards in advance; otherwise, reading would fail only at the first record of a damaged shard."""
        from array_record.python.array_record_module import ArrayRecordReader

        bad = [path for path in self.shards if not path.is_file() or path.stat().st_size < LEAST_SHARD]
        if bad:
            what = "is truncated" if bad[0].is_file() else "is missing"
            more = f" ({len(bad)} of {len(self.shards)} are missing or truncated)" if len(bad) > 1 else ""
            raise InputError(f"the shard {bad[0]} {what}{more}; {ANEW}")
        for path, length in zip(self.shards, lengths):
            reader = ArrayRecordReader(str(path))
            if not reader.ok():
                raise InputError(f"the shard {path} is damaged or truncated; {ANEW}")
            found = reader.num_records()
            if found != length:
                raise InputError(f"the shard {path} has {found} records but {INFO} lists {length}; {ANEW}")
            reader.close()

    def _read_names(self, count: int) -> list[str]:
        """Reads the label names, which must be distinct because they identify categories."""
        path = self.directory / self.names_file
        names: list[str] = []
        what = "does not exist"
        with contextlib.suppress(MissingFile):
            names = [line.strip() for line in read_text(path).split("\n") if line.strip()]
            what = f"has {len(names)}"
        twice = len(set(names)) < len(names)
        if len(names) != count or twice:
            what = "lists a name twice" if twice else what
            raise InputError(f"{path} must have {count} distinct names but {what}; {ANEW}")
        return names

    def _ids(self, listed: Any) -> list[int] | None:
        if listed is None:
            return None
        whole = isinstance(listed, list) and all(type(i) is int and 0 <= i < 2**63 for i in listed)
        if not whole or len(listed) != len(self.names) or len(set(listed)) != len(listed):
            wanted = f"{len(self.names)} distinct non-negative integers, one per label"
            raise InputError(f"category_ids in {self.directory / 'metadata.json'} must be {wanted}.")
        return listed


def category_ids_of(records: Records) -> tuple[list[int], list[str]]:
    """Returns the category id of each label, and a note if the ids had to be assumed.

    `build_records` stores the ids. The TFDS builder does not store them, but its names are the COCO names.
    """
    official = {name: category for category, name in COCO_NAMES.items()}
    if records.category_ids is not None:
        return records.category_ids, []
    if all(name in official for name in records.names):
        return [official[name] for name in records.names], []
    labels = list(range(len(records.names)))
    note = f"has no category ids, and its names are not COCO names: the labels 0..{labels[-1]} are used as ids"
    return labels, [f"{records.directory} {note}"]


def load_tfds() -> Any:
    """Imports `tensorflow_datasets`; raises `InputError` with the extra to install if it is missing."""
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise InputError("TFDS data sets need tensorflow-datasets; pip install 'yolos-jax[tfds]'.") from error
    return tensorflow_datasets


def _builder(directory: Path) -> Any:
    """Returns a TFDS builder for reading a prepared data set, configured for array_record."""
    tfds = load_tfds()
    for file in (*directory.glob("*.json"), *directory.glob("*.txt")):  # TFDS would block on a named pipe
        check_file(file)
    try:
        builder = tfds.builder_from_directory(str(directory))
        formats = [stored.value for stored in (builder.info.file_format, *builder.info.alternative_file_formats)]
        dict(builder.info.metadata)  # otherwise, TFDS would read the metadata and the shard names (below) on first use
        [split.filepaths for split in builder.info.splits.values()]
        if FORMAT in formats[1:]:
            builder.info.set_file_format(FORMAT, override=True, override_if_initialized=True)
    except Exception as error:  # damaged files raise various exceptions
        what = " ".join(str(error).split())
        raise InputError(f"{directory} cannot be opened as a TFDS data set ({what}); prepare it again.") from error
    if FORMAT not in formats:
        raise InputError(
            f"{directory} is stored as {formats[0]}, which does not support random access; convert it to {FORMAT} with "
            f"`python -m tensorflow_datasets.scripts.convert_format --dataset_version_dir={directory} "
            f"--out_file_format={FORMAT}` (needs the packages tensorflow and apache-beam)."
        )
    return builder
