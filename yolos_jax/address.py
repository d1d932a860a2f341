"""Where files lie: addresses such as `gs://bucket/run`, by way of fsspec; and one run in a folder at a time.

Orbax, matplotlib, Pillow, TensorBoard's writer and PyAV write to local files. So whatever lies at an address is worked
on in a local folder, which is uploaded while it grows. Other modules see local paths only.
"""

import atexit
import contextlib
import importlib
import os
import posixpath
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from yolos_jax.errors import ADDRESS, ALIASES, LOCAL, InputError, address_of, reason

MARKER = "_CHECKPOINT_METADATA"  # uploaded last of a checkpoint: without it, there is none

LOCK = ".lock"
_mine: dict[Path, str] = {}  # what this process has written into the lock of a run's folder
fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

# What this process has copied to read from, by address: where to, and the sizes of the files.
_copies: dict[str, tuple[Path, dict[str, int]]] = {}


def local_path(path: str) -> str:
    """The path that a `file:` address means; anything else as it is."""
    found = ADDRESS.fullmatch(path)
    if found is None or found[1].lower() not in LOCAL:
        return path
    parts = urlsplit(path)
    if parts.netloc not in ("", "localhost"):
        raise InputError(f"{path} names the host {parts.netloc!r}; a path of this machine is file:///FOLDER.")
    return unquote(parts.path)


def copied(path: str | Path) -> str | Path:
    """A local copy of the weights at an address, which lasts as long as this process; a local path as it is.

    Of the checkpoints of a run, only the newest is copied, and not what its optimizer kept. Of another folder, the
    files that lie directly in it; of a file, those beside it, too.

    Raises:
      InputError: nothing is there, or it cannot be reached.
    """
    address = address_of(path)
    if not address:
        return local_path(path) if isinstance(path, str) else path
    with reports(address, "read"):
        place = Remote(address)
        name = ""
        if place.is_file():
            name = posixpath.basename(address)
            place = Remote(posixpath.dirname(address))
            beside = {name, "config.json", "preprocessor_config.json"}
            wanted = {each: size for each, size in place.sizes(deep=False).items() if each in beside}
        else:
            sizes = place.sizes()
            wanted = {each: sizes[each] for each in _weights_among(list(sizes))}
        if not wanted:
            raise InputError(f"{address} does not exist, or holds no weights.")
        if _copies.get(address, (None, {}))[1] != wanted:
            folder = Path(tempfile.mkdtemp(prefix="yolos-jax-"))
            atexit.register(shutil.rmtree, folder, True)
            place.download(folder, list(wanted))
            ALIASES[str(folder)] = posixpath.dirname(address) if name else address
            _copies[address] = folder / name, wanted
    return _copies[address][0]


def names_at(path: str | Path) -> set[str]:
    """Names of the files below an address; none for a local path."""
    address = address_of(path)
    if not address:
        return set()
    with reports(address, "read"):
        return set(Remote(address).sizes())


def _weights_among(names: list[str]) -> list[str]:
    """The files of the newest whole checkpoint, but for its optimizer; without one, those that lie at the top."""
    steps = [int(name.split("/")[0]) for name in names if re.fullmatch(rf"\d+/{MARKER}", name)]
    if not steps:
        return [name for name in names if "/" not in name]
    newest = f"{max(steps)}/"
    return [name for name in names if name.startswith(newest) and not name.startswith(f"{newest}optimizer/")]


@contextlib.contextmanager
def only_run_in(workdir: Path) -> Iterator[None]:
    """`InputError` if another process trains in this folder; a kill of that process lets go of it.

    On a disk without locks, the run that begins last stays, and the other one ends, see `check_alone`.
    """
    with (workdir / LOCK).open("a+") as lock:
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another process is training in {workdir}; end it, or choose another --workdir."
            ) from error
        except OSError as error:
            print(f"note: {workdir} is on a disk without locks ({error.strerror}); of two runs there, the first ends")
        _mine[workdir.absolute()] = f"process {os.getpid()} of host {socket.gethostname()}, {time.time_ns()}"
        lock.truncate(0)
        lock.write(_mine[workdir.absolute()])
        lock.flush()
        try:
            yield
        finally:
            del _mine[workdir.absolute()]


def check_alone(workdir: Path) -> None:
    """`InputError` if another process has begun to train in the folder of this process's run. Ask before writing."""
    mine = _mine.get(workdir.absolute())
    found = ""
    with contextlib.suppress(FileNotFoundError):  # which a person has removed
        found = (workdir / LOCK).read_text() if mine else ""
    if found and found != mine:
        raise InputError(
            f"another run ({found.partition(',')[0]}) has begun to train in {workdir}, so this one ends without "
            "writing there any more; give each run a --workdir of its own."
        )


class Remote:
    """What lies at an address; methods raise whatever the storage raises, see `reports`."""

    def __init__(self, address: str):
        from fsspec.core import url_to_fs

        self._files, self._root = url_to_fs(address)

    def is_file(self) -> bool:
        return bool(self._files.isfile(self._root))

    def sizes(self, deep: bool = True) -> dict[str, int]:
        """The bytes of all files by name, relative to the address."""
        self._files.invalidate_cache()
        if not self._files.exists(self._root):
            return {}
        found = self._files.find(self._root, maxdepth=None if deep else 1, detail=True)
        return {posixpath.relpath(path, self._root): facts["size"] for path, facts in found.items()}

    def read(self, name: str) -> bytes:
        """The content of a file; nothing if there is none."""
        try:
            return bytes(self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            return b""

    def write(self, name: str, content: bytes) -> None:
        if not self._files.async_impl:  # those of buckets, which have no folders, would make a bucket that is missing
            self._files.makedirs(self._root, exist_ok=True)
        self._files.pipe_file(self._path(name), content)

    def download(self, folder: Path, names: list[str]) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if names:
            self._files.get([self._path(name) for name in names], [str(folder / name) for name in names])

    def upload(self, folder: Path, names: list[str]) -> None:
        if names:
            self._files.put([str(folder / name) for name in names], [self._path(name) for name in names])

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def remove_checkpoint(self, step: str) -> None:
        """Removes the folder of a checkpoint, its marker first."""
        self.remove(f"{step}/{MARKER}")
        with contextlib.suppress(FileNotFoundError):
            self._files.rm(self._path(step), recursive=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


@contextlib.contextmanager
def reports(address: str, done: str) -> Iterator[None]:
    """Turns what a storage raises into a sentence; `done` is "read" or "written to"."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # each storage has its own kinds
        raise InputError(f"{address} cannot be {done} ({reason(error).rstrip('.')}).") from error
