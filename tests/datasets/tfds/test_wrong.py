"""Error messages for TFDS directories that are incomplete, damaged or of an unsupported type."""

import contextlib
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from made_coco import coco_split
from made_tfds import change_json, listed, make_tfds, tfds_split
from reference_pack import ROOT

from yolos_jax.data.augment import Pipeline
from yolos_jax.data.detection_batches import detection_work
from yolos_jax.data.loader import load_batches
from yolos_jax.data.plan import EvaluationPlan
from yolos_jax.datasets.layouts import tfds
from yolos_jax.datasets.tfds import build as tfds_build
from yolos_jax.errors import InputError
from yolos_jax.images.reading import UnreadableImage
from yolos_jax.images.sequence import Geometry


def cut(share):
    return lambda shard: os.truncate(shard, int(shard.stat().st_size * share))


def blank(shard):
    """Damages one or two records."""
    with open(shard, "r+b") as file:
        file.seek(shard.stat().st_size // 20)
        file.write(bytes(200))


@pytest.mark.parametrize(
    "spoil, sentence",
    [
        (lambda shard: shard.unlink(), r"the shard .*coco-train.array_record-00000-of-00001 is missing; copy or"),
        (cut(0), "the shard .* is truncated"),
        (cut(0.7), r"the shard .*coco-train.* is damaged or truncated; copy or prepare the data set"),
        (lambda shard: shard.write_bytes(os.urandom(shard.stat().st_size)), "the shard .* is damaged or truncated"),
        (lambda shard: blank(shard), r"record \d of .*\(train\) cannot be read .*; copy or prepare the data set"),
    ],
    ids=["missing", "empty", "cut", "garbage", "blank"],
)  # fmt: skip
def test_damaged_shards(own, spoil, sentence):
    (shard,) = own.glob("coco-train*")
    spoil(shard)
    with pytest.raises(InputError, match=sentence):
        tfds_split(own, "train")
    assert len(tfds_split(own, "validation").examples) == 6


@pytest.mark.parametrize("template", ["{DATASET}-{SPLIT", "{&a}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"])
def test_invalid_shard_names(own, template):
    about = json.loads((own / "dataset_info.json").read_text())
    about["splits"][0]["filepathTemplate"] = template
    (own / "dataset_info.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="cannot be opened as a TFDS data set"):
        tfds_split(own, "train")


def test_a_named_pipe_does_not_block(own):
    (own / "features.json").unlink()
    os.mkfifo(own / "features.json")
    with pytest.raises(InputError, match=r"features\.json is a named pipe"):
        tfds_split(own, "train")


def test_records_damaged_later_raise_unreadable_image(made, own):
    coco, _ = made
    records = tfds_split(own, "train", annotations=listed(coco))
    (shard,) = own.glob("coco-train*")
    blank(shard)
    damaged = 0
    for example in pickle.loads(pickle.dumps(records)).examples:
        try:
            records.read(example)
        except UnreadableImage as error:
            damaged += 1
            assert f"{example.image_id}.jpg in {own} (train) cannot be read" in str(error)
    assert damaged


@pytest.mark.parametrize(
    "edit, sentence",
    [
        (lambda c: c.update(fileFormat="tfrecord"), "convert_format --dataset_version_dir=.*own --out_file_format=arr"),
        (lambda c: c.update(fileFormat="riegeli"), "is stored as riegeli, which"),
        (lambda c: c.update(fileFormat="nonsense"), "cannot be opened as a TFDS data set"),
        (lambda c: c.pop("version"), "cannot be opened as a TFDS data set"),
    ],
)  # fmt: skip
def test_unsupported_data_sets(own, edit, sentence):
    change_json(own / "dataset_info.json", edit)
    with pytest.raises(InputError, match=sentence):
        tfds_split(own, "train")


def test_missing_features(own):
    def edit(content):
        content["featuresDict"]["features"].pop("image/id")
        content["featuresDict"]["features"]["objects"]["sequence"]["feature"]["featuresDict"]["features"].pop("area")

    change_json(own / "features.json", edit)
    with pytest.raises(InputError, match="do not match TFDS coco/2017: they lack image/id, objects/area"):
        tfds_split(own, "train")
    (own / "features.json").write_text("{")
    with pytest.raises(InputError, match="cannot be opened as a TFDS data set"):
        tfds_split(own, "train")


@pytest.mark.parametrize(
    "key, kind, sentence",
    [
        ("label", {"tensor": {"shape": {}, "dtype": "int64"}}, r"objects/label is int64 but must be ClassLabel"),
        ("bbox", {"tensor": {"shape": {"dimensions": ["4"]}, "dtype": "float32"}}, r"objects/bbox is float32\[4\] but"),
        ("area", {"tensor": {"shape": {}, "dtype": "float32"}}, "objects/area is float32 but must be int64"),
    ],
)  # fmt: skip
def test_features_of_other_types(own, key, kind, sentence):
    def edit(content):
        feature = content["featuresDict"]["features"]["objects"]["sequence"]["feature"]["featuresDict"]["features"][key]
        for old in set(feature) - {"pythonClassName"}:
            feature.pop(old)
        feature.update(kind, pythonClassName="tensorflow_datasets.core.features.tensor_feature.Tensor")

    change_json(own / "features.json", edit)
    with pytest.raises(InputError, match=f"do not match TFDS coco/2017: {sentence}"):
        tfds_split(own, "train")


@pytest.mark.parametrize("ids", [True, False], ids=["with category ids", "without category ids"])
@pytest.mark.parametrize(
    "spoil, sentence",
    [
        (lambda names: None, "objects-label.labels.txt must have 80 distinct names but does not exist; copy or"),
        (lambda names: "", "labels.txt must have 80 distinct names but has 0; copy or prepare"),
        (lambda names: "\n".join(names[:79]), "but has 79|cannot be opened as a TFDS data set"),
        (lambda names: "\n".join([*names[:79], "person"]), "but lists a name twice|label names are duplicated"),
    ],
    ids=["missing", "empty", "short", "doubled"],
)  # fmt: skip
def test_label_names_are_required(own, spoil, sentence, ids):
    path = own / "objects-label.labels.txt"
    content = spoil(path.read_text().splitlines())
    path.unlink()
    if content is not None:
        path.write_text(content)
    if not ids:
        (own / "metadata.json").unlink()
    with pytest.raises(InputError, match=sentence):
        tfds_split(own, "train")


@pytest.mark.parametrize("length", [3, 7])
def test_wrong_numbers_of_records(own, length):
    change_json(own / "dataset_info.json", lambda c: c["splits"][0].update(shardLengths=[str(length)]))
    with pytest.raises(InputError, match=rf"coco-train.* has 6 records but dataset_info.json lists {length}; copy or"):
        tfds_split(own, "train")


def test_images_that_cannot_be_decoded(tmp_path, monkeypatch):
    """Without an annotation file, the unknown image size raises an error; with one, reading the image does."""
    write = tfds_build._record

    def spoilt(image, *rest):
        return write(image, *rest) | ({"image": b"no image"} if image["id"] == 3 else {})

    monkeypatch.setattr(tfds_build, "_record", spoilt)
    coco, directory = make_tfds(tmp_path, ["val2017"])
    with pytest.raises(InputError, match="image id 3 in .* cannot be read, so its size is unknown"):
        tfds_split(directory, "val2017")
    source = tfds_split(directory, "val2017", annotations=listed(coco, "val2017"))
    plan = EvaluationPlan(source.examples.sizes, Pipeline.of(Geometry(48, 96, 16, 6)), 2, 1)
    with contextlib.closing(load_batches(detection_work(source, plan, 16, 6), 0, len(plan), 0)) as loaded:
        (sentence,) = [told for batch in loaded for told in batch.skipped]
    reason = "Pillow does not recognise its format"
    assert sentence == f"the image 3.jpg in {directory} (validation) cannot be read ({reason})."


def changed(field, place, value):
    """A function that changes one value of an index."""

    def edit(index):
        array = getattr(index, field).copy()
        array[place] = value
        return index._replace(**{field: array})

    return edit


@pytest.mark.parametrize(
    "edit, sentence, images, boxes",
    [
        (changed("boxes", (0, 3), 1.01), "annotation id .* of image id .* in .*train.* has the box .* between", 6, 6),
        (changed("boxes", (0, 0), np.nan), "has the box .nan, .* between 0 and 1", 6, 6),
        (changed("boxes", (0, slice(None)), (0.5, 0, 0.4, 1)), "has the box .0.5, 0, 0.4, 1.; it must be ymin", 6, 6),
        (changed("labels", 0, 80), "has the label 80, outside 0..79", 6, 6),
        (changed("labels", 0, -1), "has the label -1, outside 0..79", 6, 6),
        (changed("sizes", 0, 0), "image id .* cannot be read, so its size is unknown", 5, None),
        (lambda i: i._replace(image_ids=np.full_like(i.image_ids, 7)), "image id 7 is in two records", None, None),
    ],
)  # fmt: skip
def test_invalid_records(made, monkeypatch, edit, sentence, images, boxes):
    """TFDS does not write such records, so the test changes the index."""
    read = tfds.index_of
    monkeypatch.setattr(tfds, "index_of", lambda records: edit(read(records)))
    with pytest.raises(InputError, match=sentence):
        tfds_split(made[1], "train")
    said = []
    records = tfds_split(made[1], "train", complain=said.append)
    assert said and (images is None or len(records.examples) == images)
    # Of the seven objects, one is a crowd and one is empty. The changed object may be either of them.
    left = int(records.examples.counts.sum()) + sum(records.dropped.values())
    assert boxes is None or left == boxes


def test_annotation_files_that_list_other_images(tmp_path, made):
    coco, directory = made
    path = tmp_path / "more.json"
    content = json.loads(listed(coco).read_text())
    new = {"id": 99, "file_name": "99.jpg", "width": 64, "height": 48}
    path.write_text(json.dumps(content | {"images": [*content["images"], new, new | {"id": 98}]}))
    with pytest.raises(InputError, match=r"2 of 8 images listed in .*more.json are not in .*for example image id 99"):
        tfds_split(directory, "train", annotations=path)
    few = [i for i in content["images"] if i["id"] in (1, 2)]
    boxes = [a for a in content["annotations"] if a["image_id"] in (1, 2)]
    path.write_text(json.dumps(content | {"images": few, "annotations": boxes}))
    records = tfds_split(directory, "train", annotations=path)
    assert len(records.examples) == 2
    assert records.notes == (f"4 of the 6 images in {directory} (train) are not in {path} and are skipped",)


def test_images_whose_size_differs_from_the_annotation(tmp_path, made):
    coco, directory = made
    path = tmp_path / "other.json"
    content = json.loads(listed(coco).read_text())
    content["images"][0].update(width=48, height=64)
    path.write_text(json.dumps(content))
    for source in (
        tfds_split(directory, "train", annotations=path),
        coco_split(coco, "train2017", annotations=path),
    ):
        with pytest.raises(UnreadableImage, match=r"1\.jpg.* is 64x48 pixels but is annotated as 48x64"):
            source.read(source.examples[0])


def test_check_data_reads_records(own):
    def check(*more):
        command = [
            sys.executable,
            "-m",
            "yolos_jax.programs.check_data",
            "--config=yolos_s",
            f"--config.data.root={own}",
            *more,
        ]
        command += ["--config.train.batch_size=2", "--config.data.max_images=0"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    done = check()
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"train: {own} (train) (TFDS), images in {own}" in done.stdout and "no problems found" in done.stdout
    assert "store integer areas" in done.stdout and "1 crowd and 1 empty box skipped" in done.stdout
    (shard,) = own.glob("coco-train*")
    shard.unlink()
    done = check()
    assert done.returncode == 2 and "is missing" in done.stderr and "Traceback" not in done.stderr


def test_missing_tfds_package_is_reported(made, tmp_path, monkeypatch, call):
    """Reading and writing raise errors that name the package to install, and nothing is written."""
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)  # importing it fails
    with pytest.raises(InputError, match=r"pip install 'yolos-jax\[tfds\]'"):
        tfds_split(made[1], "train")
    monkeypatch.delitem(sys.modules, "yolos_jax.datasets.tfds.build")
    refused = call("convert_data", made[0], "--to", "tfds", "--out", tmp_path / "out")
    assert refused.returncode == 2 and "pip install 'yolos-jax[tfds]'" in refused.stderr
    assert not (tmp_path / "out").exists()
