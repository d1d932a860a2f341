"""The records of one split of a prepared TFDS data set (array_record), by number."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yolos_jax.errors import InputError

INFO = "dataset_info.json"  # written last: a folder without it is no finished preparation
FORMAT = "array_record"
DEPTH = 3  # NAME/CONFIG/VERSION
# What a record must hold: TFDS's kind of feature, or a number's type.
FIELDS = {
    "image": "Image",
    "image/filename": "Text",
    "image/id": "int64",
    "objects/area": "int64",
    "objects/bbox": "BBoxFeature",
    "objects/id": "int64",
    "objects/is_crowd": "bool",
    "objects/label": "ClassLabel",
}
NAMES = "objects-label.labels.txt"
LEAST_SHARD = 65536  # bytes of the smallest array_record file
OTHER_NAMES = {"train2017": "train", "val2017": "validation", "test2017": "test"}


class Opened(NamedTuple):
    """TFDS's objects: the source of a split's bytes, and how records, and images alone, are decoded."""

    data: Any
    features: Any
    image: Any
    decoders: dict[str, Any]


def find_dataset(root: str | Path) -> Path | None:
    """The folder of a TFDS data set: `root` itself, or the only one in it (as in `root/coco/2017/1.1.0`).

    Returns:
      None if there is none, or if `root` is a COCO folder.

    Raises:
      InputError: there are several, or `root` is a preparation that was never finished.
    """
    root = Path(root)
    if (root / INFO).is_file():
        return root
    if (root / "features.json").is_file() or any(root.glob(f"*.{FORMAT}-*")):
        raise InputError(f"{root} looks like a TFDS data set but has no {INFO}: it was not prepared to the end.")
    if (root / "annotations").is_dir():
        return None
    found, level = [], [root]
    for _ in range(DEPTH):
        level = [Path(entry.path) for folder in level for entry in _folders(folder)]
        found += [folder for folder in level if (folder / INFO).is_file()]
    if len(found) > 1:
        raise InputError(f"{root} holds several data sets, {', '.join(map(str, sorted(found)))}; name one of them.")
    return found[0] if found else None


def _folders(folder: Path) -> list[os.DirEntry]:
    """Folders inside; TFDS builds in `incomplete.*` ones."""
    try:
        with os.scandir(folder) as entries:
            return [e for e in entries if e.is_dir() and not e.name.startswith((".", "incomplete."))]
    except OSError:
        return []


class Records:
    """One split of a TFDS data set with the features of `coco/2017`, stored as array_record.

    Sending it to another process sends no open file.

    Args:
      directory: the folder with `dataset_info.json`.
      split: as TFDS calls it, or as COCO does (`train2017` is `train`, `val2017` is `validation`).

    Attributes:
      split: as the data set calls it.
      names: name of every label.
      category_ids: the category id of every label where the data set says it, else None.
      shards: its files.

    Raises:
      InputError: the data set is of another kind or format, or lacks the split or a shard of it.
    """

    def __init__(self, directory: Path, split: str):
        self.directory = directory
        self._opened: Opened | None = None
        builder = _builder(directory)
        self._check_features(builder.info.features)
        splits = builder.info.splits
        self.split = split if split in splits else OTHER_NAMES.get(split, split)
        if self.split not in splits:
            raise InputError(f"{directory} has no split {split!r}; it has {', '.join(sorted(splits)) or 'none'}.")
        self._length = int(splits[self.split].num_examples)
        self.shards = [Path(str(path)) for path in splits[self.split].filepaths]
        self._check_shards(splits[self.split].shard_lengths)
        self.names = self._read_names(builder.info.features["objects"]["label"].num_classes)
        self.category_ids = self._ids(builder.info.metadata.get("category_ids"))

    def __len__(self) -> int:
        return self._length

    def __str__(self) -> str:
        return f"{self.directory} ({self.split})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def __getitem__(self, number: int) -> dict[str, Any]:
        """A record, its image as the bytes of a file; `RuntimeError` if it is damaged or its shard is gone."""
        return self._decoded(number, self._open().features)

    def image(self, number: int) -> bytes:
        """The image of a record alone, in half the time; `RuntimeError` as above."""
        return self._decoded(number, self._open().image)["image"]

    def _decoded(self, number: int, features: Any) -> dict[str, Any]:
        opened = self._open()
        try:
            return features.deserialize_example_np(opened.data[number], decoders=opened.decoders)
        except (ValueError, IndexError, KeyError, TypeError) as error:  # fewer records than promised, or others
            raise RuntimeError(str(error)) from error

    def _open(self) -> "Opened":
        """Opened by every process for itself."""
        if self._opened is None:
            import tensorflow_datasets as tfds

            builder, raw = _builder(self.directory), tfds.decode.DeserializeMethod.RAW_BYTES
            self._opened = Opened(
                builder.as_data_source(split=self.split, deserialize_method=raw),
                builder.info.features,
                tfds.features.FeaturesDict({"image": builder.info.features["image"]}),
                {"image": tfds.decode.SkipDecoding()},
            )
        return self._opened

    def _check_features(self, features: Any) -> None:
        inner: Any = getattr(features["objects"], "feature", None) if "objects" in features else None
        present = dict(features)
        present |= {f"objects/{key}": inner[key] for key in (inner if hasattr(inner, "keys") else ())}
        foreign = f"the records of {self.directory} are not those of TFDS's coco/2017"
        lacking = FIELDS.keys() - present.keys()
        if lacking:
            raise InputError(f"{foreign}: they lack {', '.join(sorted(lacking))}.")
        for key, kind in FIELDS.items():
            found = type(present[key]).__name__
            if found in ("Tensor", "Scalar"):
                found = f"{np.dtype(present[key].np_dtype)}{list(present[key].shape) or ''}"
            if found != kind:
                raise InputError(f"{foreign}: {key} is {found} and must be {kind}.")

    def _check_shards(self, lengths: list[int]) -> None:
        """Up front, because a reader would tell it only at a record of that shard."""
        from array_record.python.array_record_module import ArrayRecordReader

        bad = [path for path in self.shards if not path.is_file() or path.stat().st_size < LEAST_SHARD]
        if bad:
            what = "is cut short" if bad[0].is_file() else "is missing"
            more = f" ({len(bad)} of {len(self.shards)} are missing or cut short)" if len(bad) > 1 else ""
            raise InputError(f"the shard {bad[0]} {what}{more}; copy or prepare the data set anew.")
        for path, length in zip(self.shards, lengths):
            reader = ArrayRecordReader(str(path))
            if not reader.ok():
                raise InputError(f"the shard {path} is damaged or cut short; copy or prepare the data set anew.")
            if reader.num_records() != length:
                raise InputError(
                    f"the shard {path} holds {reader.num_records()} records and {INFO} says {length}; "
                    "copy or prepare the data set anew."
                )
            reader.close()

    def _read_names(self, count: int) -> list[str]:
        """The names of the labels; without them nobody knows which category a label is."""
        path = self.directory / NAMES
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, ValueError):
            lines = []
        names = [line.strip() for line in lines if line.strip()]
        if len(names) != count or len(set(names)) < len(names):
            what = "lists a name twice" if len(set(names)) < len(names) else f"has {len(names)}"
            what = what if path.is_file() else "does not exist"
            raise InputError(f"{path} must hold {count} different names and {what}; copy or prepare the data set anew.")
        return names

    def _ids(self, listed: Any) -> list[int] | None:
        if listed is None:
            return None
        if (
            not isinstance(listed, list)
            or not all(type(i) is int and 0 <= i < 2**63 for i in listed)
            or len(set(listed)) != len(listed)
            or len(listed) != len(self.names)
        ):
            raise InputError(
                f"category_ids in {self.directory / 'metadata.json'} must be {len(self.names)} different whole "
                "numbers, one for every label."
            )
        return listed


def _builder(directory: Path) -> Any:
    """TFDS's reader of a prepared data set, set to read array_record."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(str(directory))
        stored = [builder.info.file_format, *builder.info.alternative_file_formats]
        formats = [file_format.value for file_format in stored]
        dict(builder.info.metadata)  # read when first used
        if FORMAT in formats[1:]:
            builder.info.set_file_format(FORMAT, override=True, override_if_initialized=True)
    except Exception as error:  # damaged files make it raise anything
        what = " ".join(str(error).split())
        raise InputError(f"{directory} cannot be opened as a TFDS data set ({what}); prepare it anew.") from error
    if FORMAT not in formats:
        raise InputError(
            f"{directory} is stored as {formats[0]}, which cannot be read in any order; add {FORMAT} to it with "
            f"`python -m tensorflow_datasets.scripts.convert_format --dataset_version_dir={directory} "
            f"--out_file_format={FORMAT}` (needs the packages tensorflow and apache-beam)."
        )
    return builder
