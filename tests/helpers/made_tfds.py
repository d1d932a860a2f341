"""TFDS data sets for tests, written by this package or by the TFDS builder for COCO (run without TensorFlow)."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from made_coco import box, make_coco

from yolos_jax.datasets.annotations import stop
from yolos_jax.datasets.coco_names import COCO_NAMES
from yolos_jax.datasets.dataset import DataSet
from yolos_jax.datasets.examples import read_split
from yolos_jax.datasets.opening import find_split
from yolos_jax.datasets.settings import Settled, SplitOptions
from yolos_jax.datasets.tfds.build import build_records

CATEGORIES = [{"id": i, "name": name} for i, name in COCO_NAMES.items()]
SIZES = [(64, 48), (48, 64), (60, 44), (80, 31), (33, 97), (64, 64)]
BOXES = [
    box(12, 1, [4.25, 4.5, 20.13, 10.77], 1, area=190.75),
    box(11, 1, [0, 0, 64, 48], 90),  # ids are not in order
    box(3, 2, [1.5, 2.5, 30, 40], 44, iscrowd=1),
    box(4, 2, [10, 12, 0, 5], 17),  # an empty box
    box(5, 3, [59.9, 43.9, 0.1, 0.1], 3, area=0.4),
    box(7, 5, [3, 5, 17, 29], 18),
    box(8, 6, [30.7, 1.1, 33.3, 62.9], 62),  # image 4 has no box
]


def coco_folder(root: Path, splits=("train2017", "val2017")) -> Path:
    """A COCO folder with the COCO categories; all splits have the same content."""
    for split in splits:
        make_coco(root, SIZES, split, BOXES, CATEGORIES)
    return root


def make_tfds(root: Path, splits=("train2017", "val2017")) -> tuple[Path, Path]:
    """(a COCO folder, a TFDS directory built from it)."""
    coco = coco_folder(root / "coco", splits)
    return coco, build_records(coco, root / "tfds")[0]


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> tuple[Path, Path]:
    """(a COCO folder, a TFDS directory built from it), which tests must not change."""
    return make_tfds(tmp_path_factory.mktemp("made"))


@pytest.fixture
def own(tmp_path, made) -> Path:
    """A copy of the TFDS directory, which a test may damage."""
    return shutil.copytree(made[1], tmp_path / "own")


def listed(coco: Path, split: str = "train2017") -> Path:
    """The annotation file of a COCO folder."""
    return coco / "annotations" / f"instances_{split}.json"


def build_with_tfds(coco: Path, out: Path, monkeypatch, file_format: str = "array_record") -> Path:
    """Runs the TFDS builder on a COCO folder, without downloads or TensorFlow; returns the output directory."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.utils import gcs_utils
    from tensorflow_datasets.object_detection import coco as own

    monkeypatch.setattr(gcs_utils, "_is_gcs_disabled", True)
    monkeypatch.setattr(own, "tf", SimpleNamespace(int64=np.int64))
    builder = own.Coco(data_dir=str(out), config="2017", file_format=file_format)
    there = {path.name for path in coco.iterdir()}
    splits = [split for split in builder.builder_config.splits if split.images in there]
    monkeypatch.setattr(builder.builder_config, "splits", splits)
    manager = SimpleNamespace(
        downloaded_size=0, download_and_extract=lambda urls: dict.fromkeys(urls, str(coco)), extract=None
    )
    monkeypatch.setattr(builder, "_make_download_manager", lambda **_: manager)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return Path(builder.data_dir)


def change_json(path: Path, edit) -> None:
    """Edits a JSON file in place."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def tfds_split(
    root, split, num_classes=0, max_images=0, category_ids=None, annotations="", complain=stop, **options
) -> DataSet:
    """Reads a split of a TFDS directory; `options` are passed to `SplitOptions`."""
    settled = Settled(category_ids=category_ids)
    read_as = SplitOptions(num_classes=num_classes, max_images=max_images, settled=settled, **options)
    return read_split(find_split(Path(root), split, str(annotations)), read_as, complain)
