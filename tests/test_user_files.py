"""Reading a user's file returns its text, or raises a one-line error if it is too large or not a regular UTF-8 file."""

import os
import socket

import pytest

from yolos_jax.errors import InputError
from yolos_jax.user_files import MissingFile, check_file, read_bytes, read_head, read_text


def test_text_with_and_without_a_byte_order_mark(tmp_path):
    file = tmp_path / "a.txt"
    for mark in (b"", b"\xef\xbb\xbf"):
        file.write_bytes(mark + "été\r\n蚂蚁".encode())
        assert read_text(file) == "été\r\n蚂蚁"
    assert read_head(file, 3) == b"\xef\xbb\xbf" and read_bytes(file)[3:].decode() == "été\r\n蚂蚁"


@pytest.mark.parametrize("data, said", [
    (b"\xef\xbb\xbfant\nb\xb2e", r"the list .*a\.txt is not UTF-8 \(byte 0xb2 at offset 8, line 2\); save it as UTF-8"),
    ("蚂蚁".encode("gbk"), r"is not UTF-8 \(byte 0xc2 at offset 0, line 1\)"),
    ("ant".encode("utf-16"), "is UTF-16; save it as UTF-8"),
    ("ant".encode("utf-16-le"), "has a zero byte at offset 1"),
])  # fmt: skip
def test_other_encodings_are_reported(tmp_path, data, said):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(InputError, match=said):
        read_text(tmp_path / "a.txt", "the list")


def test_irregular_files_are_reported_and_do_not_block(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.mkdir("folder")
    os.symlink("loop", "loop")
    os.symlink("nothing", "dangling")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    kinds = {"pipe": "is a named pipe", "folder": "is a folder", "socket": "is a socket", "/dev/zero": "is a device"}
    kinds |= {"loop": "is a link to itself", "dangling": "is a link to a file that does not exist"}
    for name, said in kinds.items():
        for read in (read_text, read_bytes, check_file):
            with pytest.raises(InputError, match=f"the label file {name} {said}") as found:
                read(name, "the label file")
            assert not isinstance(found.value, MissingFile)


def test_missing_files_raise_missing_file(tmp_path):
    for path in (tmp_path / "a.txt", tmp_path / "b" / "a.txt"):
        with pytest.raises(MissingFile, match=r"a\.txt does not exist"):
            read_text(path)


def test_sizes_are_limited_and_sparse_files_use_no_memory(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(b'{"images": []')
    os.truncate(file, 2**36)
    with pytest.raises(InputError, match=r"has 68719476736 bytes; the maximum is 1000"):
        read_text(file, most=1000)
    with pytest.raises(InputError, match="has a zero byte at offset 13"):
        read_text(file, most=2**40)


def test_messages_stay_on_one_line():
    assert str(InputError("the class 'a\nb' of caf\udce9")) == "the class 'a\\nb' of caf\\udce9"
    assert str(InputError("été 方块")) == "été 方块"
