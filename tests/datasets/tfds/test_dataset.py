"""TFDS directories have the same examples as the COCO folders that they were built from."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from made_coco import box, coco_split, make_coco
from made_tfds import build_with_tfds, change_json, coco_folder, listed, tfds_split
from reference_pack import ROOT, data_folder

from yolos_jax.data.augment import Crop, Flip, Pipeline, Resize
from yolos_jax.data.detection_batches import detection_work
from yolos_jax.data.loader import load_batches
from yolos_jax.data.plan import TrainingPlan
from yolos_jax.datasets.tfds import index as tfds_index
from yolos_jax.datasets.tfds.build import build_records
from yolos_jax.datasets.tfds.records import Records, find_dataset
from yolos_jax.errors import InputError


def assert_same_images(a, b):
    for x, y in zip(a.examples, b.examples, strict=True):
        np.testing.assert_array_equal(np.asarray(a.read(x)), np.asarray(b.read(y)))


@pytest.fixture(scope="module", params=["yolos-jax made", "yolos-jax coco_tiny80", "TFDS made", "TFDS coco_tiny80"])
def prepared(request, tmp_path_factory):
    """(a root folder, a COCO folder, the TFDS directory in the root folder that was built from the COCO folder)."""
    builder, which = request.param.split()
    root = tmp_path_factory.mktemp("prepared")
    coco = coco_folder(root / "coco") if which == "made" else data_folder(which)
    if builder == "yolos-jax":
        return root, coco, build_records(coco, root)[0]
    with pytest.MonkeyPatch.context() as patch:
        return root, coco, build_with_tfds(coco, root, patch)


def test_records_with_an_annotation_file_equal_the_folder(prepared):
    _, coco, directory = prepared
    for split in ("train2017", "val2017"):
        folder = coco_split(coco, split, 91)
        records = tfds_split(directory, split, 91, annotations=listed(coco, split))
        assert records.examples.fingerprint() == folder.examples.fingerprint()
        assert records.ground_truth() == folder.ground_truth() and not records.notes
        for name in ("num_classes", "category_ids", "label_names", "dropped"):
            assert getattr(records, name) == getattr(folder, name)
        assert_same_images(records, folder)
        few = tfds_split(directory, split, max_images=3, annotations=listed(coco, split))
        assert few.examples.image_ids.tolist() == folder.examples.image_ids[:3].tolist()


def test_records_without_an_annotation_file_match_the_folder(prepared):
    """Data sets from the TFDS builder have no category ids, so the ids are derived from the names."""
    root, coco, directory = prepared
    folder, records = coco_split(coco, "val2017"), tfds_split(root, "val2017")
    assert find_dataset(root / "coco") in (None, directory)  # builders write to `root / "coco"`
    for name in ("num_classes", "category_ids", "label_names", "dropped"):
        assert getattr(records, name) == getattr(folder, name)
    assert len(records.notes) == 1 and "store integer areas" in records.notes[0]
    want = {example.image_id: example for example in folder.examples}
    truth, by_id = records.ground_truth(), {a["id"]: a for a in folder.ground_truth()["annotations"]}
    assert len(truth["annotations"]) == len(by_id) and len(truth["images"]) == len(want)
    for found in truth["annotations"]:
        annotation = by_id[found["id"]]
        for key in ("image_id", "category_id", "iscrowd"):
            assert found[key] == annotation[key]
        assert found["area"] == int(annotation["area"])
        np.testing.assert_allclose(found["bbox"], annotation["bbox"], atol=1e-4)
    for found in records.examples:
        example = want.pop(found.image_id)
        order = [np.lexsort(boxes.round(2).T) for boxes in (example.boxes, found.boxes)]
        np.testing.assert_allclose(found.boxes[order[1]], example.boxes[order[0]], atol=2e-4)
        assert sorted(found.labels) == sorted(example.labels)
        assert (found.width, found.height) == (example.width, example.height)
        np.testing.assert_array_equal(np.asarray(records.read(found)), np.asarray(folder.read(example)))
    assert not want


def own_categories(tmp_path):
    categories = [{"id": 30, "name": "late"}, {"id": 4, "name": "early"}]
    boxes = [box(1, 1, [1, 1, 9, 9], 30), box(2, 1, [2, 2, 9, 9], 4)]
    coco = make_coco(tmp_path / "coco", [(64, 48)], "train2017", boxes, categories)
    return coco, build_records(coco, tmp_path / "tfds")[0]


@pytest.mark.parametrize(
    "arguments",
    [{}, {"num_classes": 40}, {"categories": "contiguous"}, {"category_ids": (9, 30, 4), "num_classes": 3}],
)
def test_labels_match_those_of_the_folder(tmp_path, arguments):
    coco, directory = own_categories(tmp_path)
    folder, records = coco_split(coco, "train2017", **arguments), tfds_split(directory, "train", **arguments)
    for name in ("num_classes", "category_ids", "label_names"):
        assert getattr(records, name) == getattr(folder, name)
    assert records.examples[0].labels.tolist() == folder.examples[0].labels.tolist()
    with pytest.raises(InputError, match="category id 4, which is not one of the model's 1 categories|has the label"):
        tfds_split(directory, "train", 1, category_ids=(30,))


def test_labels_are_used_as_ids_for_unknown_names(tmp_path):
    _, directory = own_categories(tmp_path)
    (directory / "metadata.json").write_text(json.dumps({"category_ids": [30, 30]}))
    with pytest.raises(InputError, match="category_ids in .*metadata.json must be 2 distinct non-negative integers"):
        tfds_split(directory, "train")
    (directory / "metadata.json").unlink()
    records = tfds_split(directory, "train")
    assert records.label_names == {0: "late", 1: "early"} and records.examples[0].labels.tolist() == [0, 1]
    assert any("the labels 0..1 are used as ids" in note for note in records.notes)


def test_finding_a_data_set(tmp_path, made, own):
    coco, directory = made
    for root in (directory, *directory.parents[:3]):
        assert find_dataset(root) == directory
    assert find_dataset(coco) is find_dataset(tmp_path / "nowhere") is None
    shutil.copytree(directory, tmp_path / "both" / "one")
    shutil.copytree(directory, tmp_path / "both" / "two")
    with pytest.raises(InputError, match=r"both contains several data sets, .*one, .*two; choose one"):
        find_dataset(tmp_path / "both")
    with pytest.raises(InputError, match="nowhere does not exist"):
        tfds_split(tmp_path / "nowhere", "train")
    (own / "dataset_info.json").unlink()
    with pytest.raises(InputError, match=r"has no dataset_info.json: its preparation is incomplete"):
        find_dataset(own)


def test_splits_are_found_by_either_name(made):
    _, directory = made
    assert Records(directory, "val2017").split == Records(directory, "validation").split == "validation"
    with pytest.raises(InputError, match="the split test2017 does not exist in .*; it has train, validation"):
        Records(directory, "test2017")


def test_a_converted_data_set_is_read(own):
    """The TFDS tool `convert_format` writes array_record files next to the tfrecord files."""
    change_json(
        own / "dataset_info.json", lambda c: c.update(fileFormat="tfrecord", alternativeFileFormats=["array_record"])
    )
    records = tfds_split(own, "val2017")
    assert [records.read(example).size for example in records.examples]


def test_the_index_is_cached(own, tmp_path, monkeypatch):
    kept = own / "yolos-jax.train.npz"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = tfds_index.index_of(Records(own, "train"))
    assert kept.is_file()
    reading = tfds_index._read

    def refuse(records):
        raise AssertionError("the records were read again")

    def same():
        index = tfds_index.index_of(Records(own, "train"))
        return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(index, first))

    monkeypatch.setattr(tfds_index, "_read", refuse)
    assert same()
    (shard,) = own.glob("coco-train*")
    os.utime(shard, (1, 1))
    with pytest.raises(AssertionError, match="read again"):
        same()
    monkeypatch.setattr(tfds_index, "_read", reading)
    assert same()
    kept.write_bytes(kept.read_bytes()[:1000])  # damaged
    assert same()
    kept.unlink()
    kept.mkdir()  # nothing can be cached here
    assert same()
    monkeypatch.setattr(tfds_index, "_read", refuse)
    assert same() and len(list((tmp_path / "cache" / "yolos-jax").iterdir())) == 1


def test_concurrent_readers_leave_one_index(own):
    (own / "yolos-jax.train.npz").unlink(missing_ok=True)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: tfds_index.index_of(Records(own, "train")).image_ids.tolist(), range(4)))
    assert len(set(map(tuple, found))) == 1
    assert [path.name for path in own.iterdir() if "yolos" in path.name and "train" in path.name] == [
        "yolos-jax.train.npz"
    ]


def test_workers_load_the_same_batches_as_from_the_folder(made):
    """Workers that read folders are tested in tests/data/test_loader.py."""
    coco, directory = made
    draw = Pipeline(Resize((32, 48), 96), before=(Flip(), Crop(0.5, (48, 64), (32, 64))))
    folder, records = coco_split(coco, "train2017"), tfds_split(directory, "train", annotations=listed(coco))
    batches = []
    for source, workers in ((folder, 0), (records, 0), (records, 1)):
        work = detection_work(source, TrainingPlan(source.examples.sizes, draw, 2, 2, 2, 0), 16, 8)
        with contextlib.closing(load_batches(work, 0, 6, workers)) as loaded:
            batches.append(list(loaded))
    for other in batches[1:]:
        for a, b in zip(batches[0], other, strict=True):
            np.testing.assert_array_equal(a.indices, b.indices)
            for x, y in zip(a.batch, b.batch):
                np.testing.assert_array_equal(x, y)


def test_reading_needs_no_tensorflow_no_jax_and_little_memory(made, own):
    """This runs in a separate process. A missing shard is reported before anything is read."""
    code = """
import resource, sys
from pathlib import Path
from yolos_jax.datasets.examples import read_split
from yolos_jax.datasets.opening import find_split
from yolos_jax.datasets.settings import SplitOptions
from yolos_jax.errors import InputError
source = read_split(find_split(Path(sys.argv[1]), "train"), SplitOptions())
source.read(source.examples[0])
assert not {"jax", "grain", "tensorflow"} & set(sys.modules)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_split(find_split(Path(sys.argv[2]), "val2017"), SplitOptions())
except InputError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""
    (shard,) = own.glob("coco-validation*")
    shard.unlink()
    command = [sys.executable, "-c", code, made[1], own]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    grown, sentence = done.stdout.split(maxsplit=1)
    assert int(grown) < 20_000 and f"the shard {shard} is missing" in sentence  # KiB
