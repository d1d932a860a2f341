"""Reads and writes addresses such as `gs://bucket/run` with fsspec, and locks a folder while a run writes to it.

Orbax, matplotlib, Pillow, TensorBoard's writer and PyAV can only write local files. A run with a remote folder
therefore writes to a local copy, which is uploaded during the run. Other modules only use local paths.
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
_mine: dict[Path, str] = {}  # contents of the lock files that this process wrote, by run folder
fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

# Local copies of weights, by address: the local path, and the sizes of the copied files.
_copies: dict[str, tuple[Path, dict[str, int]]] = {}


def local_path(path: str) -> str:
    """Converts a `file:` address to a path; returns anything else unchanged."""
    found = ADDRESS.fullmatch(path)
    if found is None or found[1].lower() not in LOCAL:
        return path
    parts = urlsplit(path)
    if parts.netloc not in ("", "localhost"):
        raise InputError(f"{path} names the host {parts.netloc!r}, but must be local; write it as file:///FOLDER.")
    return unquote(parts.path)


def copied(path: str | Path) -> str | Path:
    """Copies the weights at an address to a local folder and returns its path; returns a local path unchanged.

    The copy is deleted when the process exits. For a run, only the newest checkpoint is copied, without the optimizer
    state. For any other folder, only its top-level files are copied. For a file, the configuration files in the same
    folder are also copied.

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
            raise InputError(f"{address} does not exist or contains no weights.")
        if _copies.get(address, (None, {}))[1] != wanted:
            folder = Path(tempfile.mkdtemp(prefix="yolos-jax-"))
            atexit.register(shutil.rmtree, folder, True)
            place.download(folder, list(wanted))
            ALIASES[str(folder)] = posixpath.dirname(address) if name else address
            _copies[address] = folder / name, wanted
    return _copies[address][0]


def names_at(path: str | Path) -> set[str]:
    """Names of all files under an address; empty for a local path."""
    address = address_of(path)
    if not address:
        return set()
    with reports(address, "read"):
        return set(Remote(address).sizes())


def _weights_among(names: list[str]) -> list[str]:
    """The newest complete checkpoint's files except the optimizer state, or all top-level files if there is none."""
    steps = [int(name.split("/")[0]) for name in names if re.fullmatch(rf"\d+/{MARKER}", name)]
    if not steps:
        return [name for name in names if "/" not in name]
    newest = f"{max(steps)}/"
    return [name for name in names if name.startswith(newest) and not name.startswith(f"{newest}optimizer/")]


@contextlib.contextmanager
def only_run_in(workdir: Path) -> Iterator[None]:
    """Locks a run's folder, or raises `InputError` if another process is training in it.

    The lock is released even if the process is killed. On a file system without locks, the run that started last
    continues and the other one stops; see `check_alone`.
    """
    with (workdir / LOCK).open("a+") as lock:
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another process is training in {workdir}; stop it, or choose another --workdir."
            ) from error
        except OSError as error:
            print(
                f"note: the file system of {workdir} does not support locks ({error.strerror}); if a second run starts "
                "there, the first one stops"
            )
        _mine[workdir.absolute()] = f"process {os.getpid()} on host {socket.gethostname()}, {time.time_ns()}"
        lock.truncate(0)
        lock.write(_mine[workdir.absolute()])
        lock.flush()
        try:
            yield
        finally:
            del _mine[workdir.absolute()]


def check_alone(workdir: Path) -> None:
    """Raises `InputError` if another process has started training in this folder. Call this before writing to it."""
    mine = _mine.get(workdir.absolute())
    found = ""
    with contextlib.suppress(FileNotFoundError):  # a user may have removed it
        found = (workdir / LOCK).read_text() if mine else ""
    if found and found != mine:
        raise InputError(
            f"another run ({found.partition(',')[0]}) has started in {workdir}, so this one is stopping; "
            "use a different --workdir for each run."
        )


class Remote:
    """The files at an address. Methods raise the exceptions of the storage driver; see `reports`."""

    def __init__(self, address: str):
        from fsspec.core import url_to_fs

        self._files, self._root = url_to_fs(address)

    def is_file(self) -> bool:
        return bool(self._files.isfile(self._root))

    def sizes(self, deep: bool = True) -> dict[str, int]:
        """The size of every file in bytes, by name relative to the address."""
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
        if not self._files.async_impl:  # buckets have no folders, and `makedirs` would create a missing bucket
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
        """Removes a checkpoint's folder, starting with its marker."""
        self.remove(f"{step}/{MARKER}")
        with contextlib.suppress(FileNotFoundError):
            self._files.rm(self._path(step), recursive=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


@contextlib.contextmanager
def reports(address: str, done: str) -> Iterator[None]:
    """Converts the exceptions of a storage driver to `InputError`; `done` is "read" or "written to"."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # each driver raises different exceptions
        raise InputError(f"{address} cannot be {done} ({reason(error).rstrip('.')}).") from error
