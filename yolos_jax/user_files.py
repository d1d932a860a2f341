"""Reads files provided by users: only regular files up to a maximum size, and text only in UTF-8."""

import codecs
import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from yolos_jax.errors import InputError

MOST_BYTES = 2**28  # default maximum file size
MOST_IMAGE = 9 * 2**27  # maximum size of image files: Pillow's pixel limit at 16 bits per channel, plus a margin
_CHUNK = 2**24
_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))


class UnusableFile(InputError):
    """A file that cannot be read."""


class MissingFile(UnusableFile):
    """A file that does not exist."""


def check_file(path: str | os.PathLike[str], what: str = "", most: int = MOST_BYTES) -> int:
    """Checks that a file is regular and not too large, and returns its size in bytes.

    Args:
      what: description of the file in messages, before its path.
      most: maximum size in bytes.

    Raises:
      MissingFile: the file does not exist.
      UnusableFile: it is not a regular file (a named pipe would block), is a link to itself, or is larger than `most`.
    """
    name = f"{what} {path}".strip()
    with reading(name):
        try:
            found = os.stat(path)
        except FileNotFoundError:
            if not os.path.islink(path):
                raise
            raise UnusableFile(f"{name} is a link to a file that does not exist; remove or repair it.") from None
    if not stat.S_ISREG(found.st_mode):
        kinds = [kind for is_kind, kind in _KINDS if is_kind(found.st_mode)]
        kind = kinds[0] if kinds else "a device"
        raise UnusableFile(f"{name} is {kind}; replace it with a regular file.")
    if found.st_size > most:
        raise UnusableFile(f"{name} has {found.st_size} bytes; the maximum is {most}.")
    return found.st_size


def read_bytes(path: str | os.PathLike[str], what: str = "", most: int = MOST_BYTES) -> bytes:
    """The content of a file; raises like `check_file`."""
    check_file(path, what, most)
    with reading(f"{what} {path}".strip()):
        return Path(path).read_bytes()


def read_head(path: str | os.PathLike[str], count: int, what: str = "") -> bytes:
    """At most the first `count` bytes of a file of any size; raises like `check_file`."""
    check_file(path, what, 2**63)
    with reading(f"{what} {path}".strip()), open(path, "rb") as file:
        return file.read(count)


def read_text(path: str | os.PathLike[str], what: str = "", most: int = MOST_BYTES) -> str:
    """The text of a UTF-8 file, without its byte order mark; raises like `check_file`.

    If the file is not UTF-8, `UnusableFile` names the first invalid byte. Reading stops at a zero byte, which does not
    occur in text, so that a sparse file does not exhaust memory.
    """
    check_file(path, what, most)
    name = f"{what} {path}".strip()
    data = bytearray()
    with reading(name), open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            data += chunk
            refuse_utf16(data, name)
            zero = data.find(0, len(data) - len(chunk))
            if zero >= 0:
                raise UnusableFile(f"{name} has a zero byte at offset {zero}: it is corrupted or not text; restore it.")
    return _decoded(data, name)


def _decoded(data: bytearray, name: str) -> str:
    mark = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    try:
        return data[mark:].decode("utf-8")
    except UnicodeDecodeError as error:
        at = mark + error.start
        line = 1 + data.count(b"\n", 0, at)
        where = f"byte 0x{data[at]:02x} at offset {at}, line {line}"
        raise UnusableFile(f"{name} is not UTF-8 ({where}); save it as UTF-8.") from error


def refuse_utf16(data: bytes | bytearray, name: str) -> None:
    """Raises `UnusableFile` if the data start with a UTF-16 byte order mark."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnusableFile(f"{name} is UTF-16; save it as UTF-8.")


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Converts errors of the operating system to `UnusableFile`; `name` is used if the error names no file."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFile(f"{_named(error, name)} does not exist.") from error
    except OSError as error:
        reason = error.strerror or error
        if error.errno == errno.ELOOP:
            raise UnusableFile(f"{_named(error, name)} is a link to itself; remove or repair it.") from error
        raise UnusableFile(f"{_named(error, name)} cannot be read ({reason}).") from error


def _named(error: OSError, name: str) -> str:
    """The path of the file that caused an error, or `name` if it contains this path or the error has no path."""
    file = error.filename
    path = os.fsdecode(file) if isinstance(file, str | bytes | os.PathLike) else ""
    return name if not path or path in name else path
