"""The one way to read files that users bring: regular files of a bounded size, and text in UTF-8."""

import codecs
import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from yolos_jax.errors import InputError

MOST_BYTES = 2**28  # of a file, unless the caller has a bound of its own
MOST_IMAGE = 9 * 2**27  # of an image's: what Pillow's limit of pixels takes in 16 bits, and a little more
_CHUNK = 2**24
_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))


class UnusableFile(InputError):
    """A file that cannot be read."""


class MissingFile(UnusableFile):
    """There is no such file."""


def check_file(path: str | os.PathLike[str], what: str = "", most: int = MOST_BYTES) -> int:
    """The size in bytes of a file that can be read without waiting.

    Args:
      what: what messages call it, before its path.
      most: bytes that it may have.

    Raises:
      MissingFile: nothing is there.
      UnusableFile: it is no regular file (a named pipe would block), a link to itself, or larger than `most`.
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
        raise UnusableFile(f"{name} is {kind}; put a regular file in its place.")
    if found.st_size > most:
        raise UnusableFile(f"{name} has {found.st_size} bytes; at most {most} are read.")
    return found.st_size


def read_bytes(path: str | os.PathLike[str], what: str = "", most: int = MOST_BYTES) -> bytes:
    """The content of a file; raises what `check_file` does."""
    check_file(path, what, most)
    with reading(f"{what} {path}".strip()):
        return Path(path).read_bytes()


def read_head(path: str | os.PathLike[str], count: int, what: str = "") -> bytes:
    """The first bytes of a file of any size, at most `count`; raises what `check_file` does."""
    check_file(path, what, 2**63)
    with reading(f"{what} {path}".strip()), open(path, "rb") as file:
        return file.read(count)


def read_text(path: str | os.PathLike[str], what: str = "", most: int = MOST_BYTES) -> str:
    """The text of a file in UTF-8, without a byte order mark; raises what `check_file` does.

    `UnusableFile` for another encoding: it names the first byte that is not UTF-8. Reading ends at a zero byte, which
    no text has, so that the holes of a file that was cut short fill no memory.
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
                raise UnusableFile(f"{name} has a zero byte at offset {zero}: it is damaged or no text; restore it.")
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
    """`UnusableFile` if bytes begin with the mark of UTF-16."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnusableFile(f"{name} is UTF-16; save it as UTF-8.")


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Around looking at files: turns the operating system's errors into an `UnusableFile`; `name` is what is read."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFile(f"{_named(error, name)} does not exist.") from error
    except OSError as error:
        reason = error.strerror or error
        if error.errno == errno.ELOOP:
            raise UnusableFile(f"{_named(error, name)} is a link that leads to itself; remove or repair it.") from error
        raise UnusableFile(f"{_named(error, name)} cannot be read ({reason}).") from error


def _named(error: OSError, name: str) -> str:
    """What is read, and the file in it that the error is about."""
    file = error.filename
    path = os.fsdecode(file) if isinstance(file, str | bytes | os.PathLike) else ""
    return name if not path or path in name else path
