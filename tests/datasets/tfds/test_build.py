"""Writing TFDS data sets: records equal those of the TFDS builder, and data that cannot be stored raises an error."""

import json
import subprocess
import sys

import numpy as np
import pytest
from made_coco import make_coco
from made_tfds import BOXES, CATEGORIES, build_with_tfds, change_json, coco_folder, make_tfds
from PIL import Image
from reference_pack import ROOT, data_folder

from yolos_jax.datasets.tfds import build as tfds_build
from yolos_jax.datasets.tfds.build import build_records, shards_of
from yolos_jax.datasets.tfds.records import find_dataset
from yolos_jax.errors import InputError

tfds = pytest.importorskip("tensorflow_datasets")


def messages(directory, split):
    """The records of a split, in order; they are parsed because their fields may be stored in any order."""
    from tensorflow_datasets.proto import tf_example_pb2

    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    source = tfds.builder_from_directory(str(directory)).as_data_source(split, deserialize_method=raw)
    return [tf_example_pb2.Example.FromString(record) for record in source]


@pytest.mark.parametrize("which", ["made", "coco_tiny80"])
def test_records_equal_those_of_the_tfds_builder(tmp_path, monkeypatch, which):
    coco = coco_folder(tmp_path / "coco") if which == "made" else data_folder(which)
    ours, _ = build_records(coco, tmp_path / "ours")
    theirs = build_with_tfds(coco, tmp_path / "theirs", monkeypatch)
    assert ours.relative_to(tmp_path / "ours") == theirs.relative_to(tmp_path / "theirs")
    for name in ("features.json", "objects-label.labels.txt"):
        assert (ours / name).read_text() == (theirs / name).read_text()
    a, b = (json.loads((folder / "dataset_info.json").read_text()) for folder in (ours, theirs))
    for key in ("name", "configName", "version", "fileFormat", "splits"):
        assert a[key] == b[key]
    for split in ("train", "validation"):
        found, want = messages(ours, split), messages(theirs, split)
        assert len(found) == len(want) > 5 and found == want


def test_images_are_unchanged(tmp_path):
    """As in TFDS, a file named .jpg may be a PNG file, and its bytes are not changed."""
    coco = coco_folder(tmp_path / "coco", ["val2017"])
    Image.open(coco / "val2017" / "2.jpg").save(coco / "val2017" / "2.png")
    (coco / "val2017" / "2.png").rename(coco / "val2017" / "2.jpg")
    file = coco / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["annotations"].append(content["annotations"][0] | {"id": 10**6, "image_id": 10**6})
    file.write_text(json.dumps(content))
    folder, (summary,) = build_records(coco, tmp_path / "out")
    assert summary[:5] == ("validation", 6, 7, 0, 1)
    assert "1 annotations in" in summary.notes[0] and summary.notes[0].endswith("they are ignored")
    for message in messages(folder, "validation"):
        fields = {key: value.bytes_list.value for key, value in message.features.feature.items()}
        name = fields["image/filename"][0].decode()
        assert fields["image"][0] == (coco / "val2017" / name).read_bytes()


def test_several_shards_keep_the_order(tmp_path, monkeypatch):
    coco, one = make_tfds(tmp_path, ["train2017"])
    monkeypatch.setattr(tfds_build, "SHARD", 2000)
    four, (summary,) = build_records(coco, tmp_path / "four")
    assert summary.shards == 4 == len(list(four.glob("coco-train.array_record-*-of-00004")))
    assert messages(four, "train") == messages(one, "train")


@pytest.mark.parametrize("images", [1, 3, 500, 800, 5000, 118_287, 900_000])
def test_number_of_shards_matches_tfds(images):
    from tensorflow_datasets.core.utils.shard_utils import ShardConfig

    for size in (images * one for one in (1000, 163_000, 167_772, 167_773, 1_000_000)):
        # TFDS adds 16 bytes of framing to every record
        assert shards_of(size, images) == ShardConfig.calculate_number_shards(size - 16 * images, images)


def test_missing_fields_in_hand_made_files(tmp_path):
    """The annotations lack id, area and iscrowd; one box extends beyond its image, and one is entirely outside."""
    boxes = [[-4, 30, 20, 30.5], [70, 1, 5, 5], [1, 1, 3.5, 3], [0, 0, 64, 48]]
    boxes = [{"image_id": 1, "bbox": one, "category_id": 1} for one in boxes]
    folder, (summary,) = build_records(
        make_coco(tmp_path / "coco", [(64, 48)], "mine", boxes), tmp_path / "out", ["mine"]
    )
    assert (summary.split, summary.objects, summary.clipped) == ("mine", 4, 2)
    (record,) = tfds.builder_from_directory(str(folder)).as_data_source("mine")
    objects = record["objects"]
    assert list(objects["id"]) == [1, 2, 3, 4] and list(objects["area"]) == [610, 25, 10, 64 * 48]
    want = [[30 / 48, 0, 1, 16 / 64], [1 / 48, 1, 6 / 48, 1], [1 / 48, 1 / 64, 4 / 48, 4.5 / 64], [0, 0, 1, 1]]
    np.testing.assert_allclose(objects["bbox"], want, atol=1e-7)
    assert json.loads((folder / "metadata.json").read_text()) == {"category_ids": [1, 7]}


def remove_image(coco):
    (coco / "train2017" / "3.jpg").unlink()


def spoil_image(coco):
    (coco / "train2017" / "3.jpg").write_bytes(b"no image")


def turn_image(coco):
    Image.open(coco / "train2017" / "1.jpg").transpose(Image.Transpose.ROTATE_90).save(coco / "train2017" / "1.jpg")


def webp_image(coco):
    Image.open(coco / "train2017" / "1.jpg").save(coco / "train2017" / "1.jpg", "WEBP")


def train(edit):
    return lambda coco: change_json(coco / "annotations" / "instances_train2017.json", edit)


@pytest.mark.parametrize(
    "spoil, sentence",
    [
        (remove_image, r"image id 3 .*3\.jpg does not exist"),
        (spoil_image, r"3\.jpg \(image id 3\) cannot be read"),
        (turn_image, "1.jpg .image id 1. is 48x64 pixels but is annotated as 64x48"),
        (webp_image, "1.jpg .image id 1. is in WEBP format, which TFDS cannot read"),
        (train(lambda c: c["images"][1].update(file_name="1.jpg")), "image ids .* have the same file name, 1.jpg"),
        (train(lambda c: c["categories"][4].update(name=" two  words")), "category id 5 has the name ' two  words'"),
        (train(lambda c: c["categories"][4].update(name="person")), "two categories have the same name"),
        (train(lambda c: c["categories"][4].update(name="plane")), "category id 5 is 'plane' in train but 'airplane'"),
        (train(lambda c: c["annotations"][0].update(bbox=[1, 1, -1, 1])), "annotation id 12 .* negative width"),
    ],
)  # fmt: skip
def test_invalid_data_is_rejected_before_anything_is_written(tmp_path, spoil, sentence):
    coco = coco_folder(tmp_path / "coco")
    spoil(coco)
    with pytest.raises(InputError, match=sentence):
        build_records(coco, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "splits, sentence",
    [
        (["val2017", "validation"], "2 of the splits val2017, validation would be written as validation"),
        (["mine", "mine"], "2 of the splits mine, mine would be written as mine; list only one"),
        (["train2017", "a b"], "TFDS does not allow a split named 'a b'"),
        (["val[1]"], r"TFDS does not allow a split named 'val\[1\]'"),
        (["x.y"], r"TFDS does not allow a split named 'x\.y'"),
        (["../up"], "TFDS does not allow a split named '../up'"),
        (["x" * 101], "TFDS does not allow a split named 'xxx"),
        ([""], "TFDS does not allow a split named ''"),
        (["all"], "TFDS does not allow a split named 'all'"),
    ],
)  # fmt: skip
def test_invalid_split_names(tmp_path, splits, sentence):
    """The error is raised before anything is read: the folder does not even exist."""
    with pytest.raises(InputError, match=sentence):
        build_records(tmp_path / "coco", tmp_path / "out", splits)
    assert not (tmp_path / "out").exists()


def test_long_and_odd_split_names_are_written_and_read(tmp_path):
    for name in ("x" * 100, "-my_split-2"):
        coco = make_coco(tmp_path / name, [(64, 48)], name)
        folder, (summary,) = build_records(coco, tmp_path / "out" / name[-3:], [name])
        assert summary.split == name and len(messages(folder, name)) == 1


def test_a_concurrent_build_is_kept(tmp_path, monkeypatch):
    coco = coco_folder(tmp_path / "coco", ["val2017"])
    write, first = tfds_build._write, []

    def overtaken(*arguments):
        if not first:
            first.append(None)
            first.append(build_records(coco, tmp_path / "out")[0])
        return write(*arguments)

    monkeypatch.setattr(tfds_build, "_write", overtaken)
    with pytest.raises(InputError, match="another process wrote .* in the meantime"):
        build_records(coco, tmp_path / "out")
    assert [path for path in first[1].parent.iterdir()] == [first[1]] and len(messages(first[1], "validation")) == 6


def test_nothing_is_overwritten_and_nothing_incomplete_is_left(tmp_path, monkeypatch):
    coco, folder = make_tfds(tmp_path, ["val2017"])
    with pytest.raises(InputError, match="already exists"):
        build_records(coco, tmp_path / "tfds")
    with pytest.raises(InputError, match="not in any of the supported layouts"):
        build_records(coco / "val2017", tmp_path / "other")
    with pytest.raises(InputError, match=r"has no split gone; it has val2017"):
        build_records(coco, tmp_path / "other", ["gone"])
    with monkeypatch.context() as patch:
        patch.setattr(tfds_build.shutil, "disk_usage", lambda _: tfds_build.shutil._ntuple_diskusage(1, 1, 0))
        with pytest.raises(InputError, match=r"has 0\.0 GB of free space but the data set needs"):
            build_records(coco, tmp_path / "other")
    written = []

    def fail(image, *rest):
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(image)
        return record(image, *rest)

    record = tfds_build._record
    monkeypatch.setattr(tfds_build, "_record", fail)
    with pytest.raises(OSError, match="No space left"):
        build_records(coco, tmp_path / "other")
    assert written and not list((tmp_path / "other" / "coco" / "2017").iterdir())
    # A killed build leaves a folder that is not a data set.
    folder.rename(folder.with_name("incomplete.abc123_1.1.0"))
    assert find_dataset(tmp_path / "tfds") is None


def test_convert_data_writes_tfds(tmp_path):
    coco = make_coco(tmp_path / "coco", [(64, 48)] * 3, "val2017", BOXES[:2], CATEGORIES)
    command = [sys.executable, "-m", "yolos_jax.programs.convert_data", coco, "--to=tfds", "--out", tmp_path / "out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "validation: 3 images, 2 objects, in 1 shard" in done.stdout
    assert find_dataset(tmp_path / "out") == tmp_path / "out" / "coco" / "2017" / "1.1.0"
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert again.returncode == 2 and "already exists" in again.stderr and "Traceback" not in again.stderr
