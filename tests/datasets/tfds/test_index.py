"""The cached index of a TFDS data set is untrusted: unless it is valid in every detail, the records are read again."""

import io
import resource
import zipfile

import numpy as np
import pytest

from yolos_jax.datasets.tfds import index as tfds_index
from yolos_jax.datasets.tfds.index import Index, index_of
from yolos_jax.datasets.tfds.records import Records


def npy(array) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), allow_pickle=True)
    return file.getvalue()


def lying(array) -> bytes:
    """The bytes of an array whose header claims that there are 2^45 values."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (2**45,)})
    return file.getvalue() + bytes(8)


def replaced(name, change):
    """A function that changes one of the entries."""
    return lambda entries: entries | {name: npy(change(np.load(io.BytesIO(entries[name]), allow_pickle=False)))}


def unknown_text(names) -> np.ndarray:
    return np.full(names.shape, 0xFFFFFFFF, np.uint32).view("U1")


@pytest.fixture
def kept(own, tmp_path, monkeypatch):
    """(the records, the correct index, a function that writes entries as the cached index)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    records = Records(own, "train")
    want, path = index_of(records), own / "yolos-jax.train.npz"
    with zipfile.ZipFile(path) as archive:
        entries = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}

    def write(edit, method=zipfile.ZIP_STORED):
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in edit(entries).items():
                archive.writestr(f"{name}.npy", data)

    return records, want, write


def read_anew(records, monkeypatch) -> tuple[Index, bool]:
    """The index, and whether the records were read again."""
    read, times = tfds_index._read, []
    monkeypatch.setattr(tfds_index, "_read", lambda r: times.append(None) or read(r))
    return index_of(records), bool(times)


def assert_right(index, want):
    for found, array in zip(index, want, strict=True):
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype


def test_an_index_from_the_helper_is_used(kept, monkeypatch):
    """This shows that the changes below, rather than the helper, make an index invalid."""
    records, want, write = kept
    write(dict)
    index, anew = read_anew(records, monkeypatch)
    assert not anew
    assert_right(index, want)


@pytest.mark.parametrize(
    "edit",
    [
        replaced("boxes", lambda a: a[:1]),
        replaced("boxes", lambda a: a.astype(np.float64)),
        replaced("boxes", lambda a: a[:, :3]),
        replaced("labels", lambda a: a[:-1]),
        replaced("labels", lambda a: a.astype(np.float64)),
        replaced("sizes", lambda a: a[:, 0]),
        replaced("sizes", lambda a: -a),
        replaced("counts", lambda a: a + 1),
        replaced("counts", lambda a: np.where(np.arange(len(a)) == 0, -1, a)),
        replaced("counts", lambda a: a * 0 + 2**62),
        replaced("image_ids", lambda a: a[:-1]),
        replaced("image_ids", lambda a: a.astype("U9")),
        replaced("file_names", lambda a: np.array([b"x"] * len(a))),
        replaced("file_names", unknown_text),
        replaced("ids", lambda a: a[0]),
        replaced("key", lambda a: np.array(7)),
        lambda entries: entries | {"areas": npy(np.array([{}], object))},
        lambda entries: entries | {"areas": lying(None)},
        lambda entries: entries | {"areas": b"no array"},
        lambda entries: {name: data for name, data in entries.items() if name != "crowds"},
        lambda entries: {},
    ],
)
def test_invalid_arrays(kept, monkeypatch, edit):
    records, want, write = kept
    write(edit)
    index, anew = read_anew(records, monkeypatch)
    assert anew
    assert_right(index, want)


@pytest.mark.parametrize("name", ["key", "areas"])
def test_compressed_files(kept, monkeypatch, name):
    """The file contains 80 MB of compressed zeros."""
    records, want, write = kept
    write(lambda entries: entries | {name: npy(np.zeros(10_000_000, np.int64))}, zipfile.ZIP_DEFLATED)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    index, anew = read_anew(records, monkeypatch)
    assert anew and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # KiB
    assert_right(index, want)


@pytest.mark.parametrize("method", [99, zipfile.ZIP_LZMA])
def test_other_compression_methods(kept, monkeypatch, method):
    """The test changes the compression method in the central directory and in every entry."""
    records, want, write = kept
    write(dict)
    path = records.directory / "yolos-jax.train.npz"
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 10), (b"PK\x03\x04", 8)):
        at = data.find(signature)
        while at >= 0:
            data[at + offset : at + offset + 2] = method.to_bytes(2, "little")
            at = data.find(signature, at + 1)
    path.write_bytes(data)
    index, anew = read_anew(records, monkeypatch)
    assert anew
    assert_right(index, want)


def test_overlapping_entries(kept, monkeypatch):
    """The entries share their bytes, so that their total size is larger than the file."""
    records, want, write = kept
    write(lambda entries: entries | {"x": bytes(100_000)})
    path = records.directory / "yolos-jax.train.npz"
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        start, count = archive.start_dir, len(archive.namelist())
    end = data.rindex(b"PK\x05\x06")
    listed = data[start:end]
    tail = bytearray(data[end:])
    tail[8:10] = tail[10:12] = (3 * count).to_bytes(2, "little")
    tail[12:16] = (3 * len(listed)).to_bytes(4, "little")
    path.write_bytes(data[:start] + 3 * listed + tail)
    assert len(zipfile.ZipFile(path).infolist()) == 3 * count
    index, anew = read_anew(records, monkeypatch)
    assert anew
    assert_right(index, want)
