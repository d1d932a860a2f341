"""Reading imagenet2012 from TFDS, or any data set with images and labels, from array_record files."""

import os

import numpy as np
import pytest
from made_classes import CLASSES, encoded, picture

from yolos_jax.datasets.splits import MissingSplit
from yolos_jax.datasets.tfds.class_records import ClassRecords
from yolos_jax.datasets.tfds.records import find_dataset
from yolos_jax.errors import InputError
from yolos_jax.images.reading import UnreadableImage


def make_records(root, pictures, labels, names=CLASSES, split="train"):
    """Writes `root/imagenet2012/5.1.0` with one split; TFDS encodes the records and writes the metadata."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    folder = root / "imagenet2012" / "5.1.0"
    folder.mkdir(parents=True)
    label = tfds.features.ClassLabel(names=list(names))
    image = tfds.features.Image(encoding_format="jpeg")
    features = tfds.features.FeaturesDict({"image": image, "label": label, "file_name": tfds.features.Text()})
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name="imagenet2012", split=split, filetype_suffix="array_record"
    )
    writer = ArrayRecordWriter(os.fspath(template.sharded_filepath(shard_index=0, num_shards=1)), "group_size:1")
    for i, (data, number) in enumerate(zip(pictures, labels)):
        record = {"image": data, "label": number, "file_name": f"{i}.JPEG"}
        writer.write(features.serialize_example(features.encode_example(record)))
    writer.close()
    version = tfds.core.Version("5.1.0")
    identity = tfds.core.DatasetIdentity("imagenet2012", version, str(folder), __name__, "", "")
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    info.set_file_format("array_record")
    splits = [tfds.core.SplitInfo(split, [len(labels)], 1, filename_template=template)]
    info.set_splits(tfds.core.SplitDict(splits))
    info.write_to_directory(folder)
    return folder


def test_imagenet_records(tmp_path):
    random, labels = np.random.default_rng(0), [2, 0, 1, 2]
    images = [picture(CLASSES[label], random) for label in labels]
    files = [encoded(image, "PNG") for image in images[:3]] + [b"no picture"]
    folder = make_records(tmp_path, files, labels, split="validation")
    assert find_dataset(tmp_path) == folder
    source = ClassRecords(folder, "val")
    assert len(source) == 4 and tuple(source.names) == CLASSES
    for i in range(3):
        found, label = source.read(i)
        np.testing.assert_array_equal(found, images[i])
        assert label == labels[i]
    with pytest.raises(UnreadableImage, match="the image of record 3 of .*validation"):
        source.read(3)
    few = ClassRecords(folder, "val", max_images=2)
    assert few.read(0)[1] == 2 and len(few) == 2 and few.fingerprint() != source.fingerprint()
    assert ClassRecords(folder, "val").fingerprint() == source.fingerprint()
    with pytest.raises(MissingSplit, match="the split train does not exist"):
        ClassRecords(folder, "train")
    with pytest.raises(InputError, match=r"1 class that the checkpoint lacks: blue; .*\(not in .*: pink"):
        ClassRecords(folder, "val", classes=(("green", "pink", "red"), "the checkpoint"))
    wanted = "red", "pink", "green", "blue"  # in a different order, with an additional class
    named = ClassRecords(folder, "val", classes=(wanted, "the checkpoint"))
    assert [wanted[named.read(i)[1]] for i in range(3)] == [CLASSES[label] for label in labels[:3]]
    assert named.names == wanted and named.notes[0].endswith(
        "no images for 1 of the 4 classes (excluded from the score): pink"
    )
