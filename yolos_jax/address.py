"""Access to addresses such as `gs://bucket/run` with fsspec, and a lock that allows one run per folder.

Orbax, matplotlib, Pillow, TensorBoard's writer and PyAV write to local files. So remote folders have a local working
copy, which is uploaded while it grows. Other modules see only local paths.
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

MARKER = "_CHECKPOINT_METADATA"  # uploaded last: a checkpoint without it is incomplete

LOCK = ".lock"
_mine: dict[Path, str] = {}  # this process's entries in the locks of runs' folders
fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

# Local copies for reading, by address: path and file sizes.
_copies: dict[str, tuple[Path, dict[str, int]]] = {}


def local_path(path: str) -> str:
    """The path in a `file:` address; anything else is returned unchanged."""
    found = ADDRESS.fullmatch(path)
    if found is None or found[1].lower() not in LOCAL:
        return path
    parts = urlsplit(path)
    if parts.netloc not in ("", "localhost"):
        raise InputError(f"{path} names the host {parts.netloc!r}; a local path is file:///FOLDER.")
    return unquote(parts.path)


def copied(path: str | Path) -> str | Path:
    """A local copy of the weights at an address, kept until this process ends; a local path is returned unchanged.

    From a run, only the newest checkpoint is copied, without the optimizer's state. From another folder, only the files
    directly in it are copied. For a file, those beside it are copied, too.

    Raises:
      InputError: the address does not exist or cannot be reached.
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
            raise InputError(f"{address} does not exist, or has no weights.")
        if _copies.get(address, (None, {}))[1] != wanted:
            folder = Path(tempfile.mkdtemp(prefix="yolos-jax-"))
            atexit.register(shutil.rmtree, folder, True)
            place.download(folder, list(wanted))
            ALIASES[str(folder)] = posixpath.dirname(address) if name else address
            _copies[address] = folder / name, wanted
    return _copies[address][0]


def names_at(path: str | Path) -> set[str]:
    """Names of the files below an address; empty for a local path."""
    address = address_of(path)
    if not address:
        return set()
    with reports(address, "read"):
        return set(Remote(address).sizes())


def _weights_among(names: list[str]) -> list[str]:
    """The files of the newest complete checkpoint, without its optimizer; without one, the top-level files."""
    steps = [int(name.split("/")[0]) for name in names if re.fullmatch(rf"\d+/{MARKER}", name)]
    if not steps:
        return [name for name in names if "/" not in name]
    newest = f"{max(steps)}/"
    return [name for name in names if name.startswith(newest) and not name.startswith(f"{newest}optimizer/")]


@contextlib.contextmanager
def only_run_in(workdir: Path) -> Iterator[None]:
    """Raises `InputError` if another process trains in this folder; the lock is released if that process is killed.

    On a disk without locks, the run that starts last stays, and the other one ends; see `check_alone`.
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
    """Raises `InputError` if another process has started to train in this run's folder. Call it before writing."""
    mine = _mine.get(workdir.absolute())
    found = ""
    with contextlib.suppress(FileNotFoundError):  # removed by a user
        found = (workdir / LOCK).read_text() if mine else ""
    if found and found != mine:
        raise InputError(
            f"another run ({found.partition(',')[0]}) has started in {workdir}, so this one stops writing there "
            "and ends; give each run its own --workdir."
        )


class Remote:
    """The files at an address; methods raise the storage's own exceptions, see `reports`."""

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
        """The content of a file; empty if it does not exist."""
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
    """Turns a storage's exceptions into `InputError`; `done` is "read" or "written to"."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # each storage raises its own exceptions
        raise InputError(f"{address} cannot be {done} ({reason(error).rstrip('.')}).") from error
