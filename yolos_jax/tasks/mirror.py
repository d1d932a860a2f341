"""A local copy of a remote folder (such as `gs://bucket/run`) that is uploaded while a program writes to it."""

import _thread
import contextlib
import io
import json
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yolos_jax.address import MARKER, Remote, local_path, reports
from yolos_jax.distributed.processes import LostProcess, Processes
from yolos_jax.errors import ALIASES, InputError, address_of, reason, with_addresses
from yolos_jax.training.metrics import METRICS
from yolos_jax.training.saving import BEST

EVERY = 10.0  # seconds between uploads
OWNER = ".owner"  # the remote file that identifies the run that writes there
HALF = "orbax-checkpoint-tmp"  # part of the name of an incomplete checkpoint
ONLY_ADDED_TO = ("tensorboard/", "wandb/", "validation/", "eval-")  # files that a resumed run does not read
_BEST, _BEST_MARKER, _OTHER, _LINES, _STEP, _MARKER = range(6)  # stages of an upload, in order
_CHECKPOINT = re.compile(rf"((?:{BEST}/)?\d+)/")
Signature = tuple[int, int]  # size in bytes, modification time in ns


@contextlib.contextmanager
def shared_copy(path: str | Path, processes: Processes, whole: bool = True, owned: bool = False) -> Iterator[Path]:
    """A `working_copy` for several processes: only the primary has the copy, and all wait for its last upload."""
    with contextlib.ExitStack() as stack:
        folder = processes.on_primary(stack.enter_context, working_copy(path, whole, owned))
        if folder is None:
            folder = Path(path)
            if address_of(path):  # used only in this process's messages
                ALIASES[str(folder.absolute())] = address_of(path)
        try:
            yield folder
        except LostProcess:
            raise
        except InputError:  # raised in all processes
            with contextlib.ExitStack() as failed:
                failed.push(stack.pop_all())
                processes.agree(failed.__exit__, *sys.exc_info())
            raise
        processes.agree(stack.close)


@contextlib.contextmanager
def working_copy(path: str | Path, whole: bool = True, owned: bool = False) -> Iterator[Path]:
    """Yields a local folder that is uploaded to an address in the background, and completely at the end.

    A file is uploaded when it has not changed for `EVERY` seconds, and a checkpoint when it is complete. Uploads do not
    block the program, and failed uploads are retried. A local path is yielded unchanged.

    Args:
      whole: download the remote files first, except for figures and event files, to which a run only adds.
      owned: the address belongs to one run. Remote files cannot be locked, so if two runs use the same address, the
        one that started last continues and the other is interrupted.

    Raises:
      InputError: the address is not writable, or an upload failed; the local folder is then kept.
    """
    address = address_of(path)
    if not address:
        yield Path(local_path(path) if isinstance(path, str) else path)
        return
    mirror = Mirror(address, owned)
    with contextlib.redirect_stdout(_Renaming(sys.stdout)):
        try:
            mirror.begin(whole)
            yield mirror.folder
        except Exception as error:
            error.args = tuple(with_addresses(arg) if isinstance(arg, str) else arg for arg in error.args)
            mirror.end(failed=True)
            raise
        except BaseException:
            mirror.end(failed=True)
            raise
        mirror.end()


class Mirror:
    """A local folder and the address to which a thread uploads it."""

    def __init__(self, address: str, owned: bool):
        self.address = address
        self.folder = Path(tempfile.mkdtemp(prefix="yolos-jax-"))
        self.there: dict[str, Signature | None] = {}  # uploaded files; None while a file is being uploaded
        self._before: dict[str, Signature] = {}  # files in the folder at the time of the previous upload
        self._owner = ""  # identifies this run
        self._owned = owned
        self._lost = ""  # error message if another run has taken over the address
        self._failed = ""  # why the last upload failed; empty if it succeeded
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._upload_now_and_then, name="uploading", daemon=True)

    def begin(self, whole: bool) -> None:
        """Takes over the address, downloads its files, and starts the uploads."""
        ALIASES[str(self.folder)] = self.address
        with reports(self.address, "written to"):
            self._place = Remote(self.address)
            self._take_over()
            names = list(self._place.sizes()) if whole else []
            steps = {found[1] for name in names if (found := _CHECKPOINT.match(name))}
            half = {step for step in steps if f"{step}/{MARKER}" not in names} if self._owned else set()
            for step in half:  # left by a killed run
                self._place.remove_checkpoint(step)
            wanted = [name for name in names if name != OWNER and not name.startswith(ONLY_ADDED_TO)]
            wanted = [name for name in wanted if not (found := _CHECKPOINT.match(name)) or found[1] not in half]
            self._place.download(self.folder, wanted)
        self.there.update(self._files())
        self._before.update(self._files())
        self._thread.start()

    def _take_over(self) -> None:
        """Records this run as the owner of the address; prints a note if another run owned it."""
        owner = {"host": socket.gethostname(), "process": os.getpid(), "run": secrets.token_hex(8)}
        before = self._place.read(OWNER) if self._owned else b""
        self._owner = json.dumps(owner)
        self._place.write(OWNER, self._owner.encode())
        if before:
            print(f"note: {self.address} was last written by {_named(before)}, which will be stopped if still running")

    def _is_ours(self) -> bool:
        """Returns whether this run still owns the address; interrupts the run if another one has taken over."""
        if not self._owned or self._lost:
            return not self._lost
        found = self._place.read(OWNER)
        if found and found != self._owner.encode():
            self._lost = (
                f"another run ({_named(found)}) now writes to {self.address}, so this run was stopped; files that "
                f"were not uploaded are in {{}}. Give each run its own --workdir."
            )
            _thread.interrupt_main()
        return not self._lost

    def _upload_now_and_then(self) -> None:
        while not self._ended.wait(EVERY):
            failed = self._try_to_upload(False)
            if failed and not self._failed:
                print(f"note: {self.address} cannot be written to at the moment ({failed}); retrying", file=sys.stderr)
            self._failed = failed

    def _try_to_upload(self, everything: bool) -> str:
        """Tries to upload; returns the reason for a failure, or "" on success."""
        try:
            self._upload(everything)
        except FileNotFoundError as error:
            return reason(error) if everything else ""  # a checkpoint was deleted in the meantime
        except Exception as error:  # each storage backend has its own exception types
            return reason(error)
        return ""

    def _upload(self, everything: bool) -> None:
        """Uploads changed files in an order that leaves a resumable run if the upload is interrupted.

        The best checkpoint is uploaded before the metrics line of its evaluation, metrics lines before the checkpoint
        of the same step, and a checkpoint's marker last.
        """
        if not self._is_ours():
            return
        steps = self._files()
        lines = self._read_lines()
        now = self._files()
        due: list[list[str]] = [[], [], [], [], [], []]
        for name, signature in now.items():
            kind = _kind(name)
            at_rest = everything or kind in (_BEST, _BEST_MARKER, _LINES) or self._before.get(name) == signature
            fits = name in steps if kind in (_STEP, _MARKER) else at_rest
            if fits and self.there.get(name) != signature:
                due[kind].append(name)
        self._before = now
        for kind, names in enumerate(due):
            if kind == _MARKER and not self._is_ours():
                return
            self.there.update(dict.fromkeys(names))
            if kind == _LINES and names:
                self._place.write(METRICS, lines)
            else:
                self._place.upload(self.folder, names)
            self.there.update({name: now[name] for name in names})
        self._remove([name for name in self.there if name not in now], now)

    def _remove(self, gone: list[str], now: dict[str, Signature]) -> None:
        """Removes remote files that are no longer in the folder."""
        left = {found[1] for name in now if (found := _CHECKPOINT.match(name))}
        steps = {found[1] for name in gone if (found := _CHECKPOINT.match(name))} - left
        for step in steps:
            self._place.remove_checkpoint(step)
        for name in gone:
            found = _CHECKPOINT.match(name)
            if found is None or found[1] in left:
                self._place.remove(name)
            del self.there[name]

    def _read_lines(self) -> bytes:
        path = self.folder / METRICS
        return path.read_bytes() if path.exists() else b""

    def _files(self) -> dict[str, Signature]:
        """The signatures of the complete files in the folder, by relative path."""
        found = {}
        for at, folders, files in os.walk(self.folder):
            folders[:] = [name for name in folders if HALF not in name and not name.startswith(".")]
            for name in files:
                with contextlib.suppress(FileNotFoundError):  # a checkpoint may be deleted at the same time
                    path = Path(at, name)
                    if not name.startswith("."):
                        found[path.relative_to(self.folder).as_posix()] = (path.stat().st_size, path.stat().st_mtime_ns)
        return found

    def end(self, failed: bool = False) -> None:
        """Uploads everything. If that fails, raises `InputError`, or prints a note if the run has already `failed`."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
            try:
                trouble = self._try_to_upload(True)
            except BaseException:
                self._keep("interrupted", True)
                raise
            if self._lost:
                raise InputError(self._lost.format(self._keep("", False)))
            if trouble:
                self._keep(trouble, failed)
                return
            with contextlib.suppress(Exception):
                self._place.remove(OWNER)
        ALIASES.pop(str(self.folder), None)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _keep(self, trouble: str, failed: bool) -> Path:
        """Keeps the local folder and reports its path."""
        ALIASES.pop(str(self.folder), None)
        sentence = f"{self.address} could not be written completely ({trouble}); the missing files are in {self.folder}"
        if trouble and failed:
            print(f"note: {sentence}", file=sys.stderr)
        elif trouble:
            raise InputError(f"{sentence}. Copy them to that address, and run the same command again.")
        return self.folder


def _kind(name: str) -> int:
    """The stage of the upload in which a file is sent."""
    if name == METRICS:
        return _LINES
    step = _CHECKPOINT.match(name)
    if step is None:
        return _OTHER
    marks = name == f"{step[1]}/{MARKER}"
    if name.startswith(f"{BEST}/"):
        return _BEST_MARKER if marks else _BEST
    return _MARKER if marks else _STEP


def _named(owner: bytes) -> str:
    """The host and process that an owner file names."""
    try:
        found = json.loads(owner)
        return f"process {found['process']} on host {found['host']}"
    except (ValueError, KeyError, TypeError):
        return "another program"


class _Renaming(io.TextIOBase):
    """An output stream that replaces the paths of local copies with their addresses."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        return int(self._stream.write(with_addresses(text)))

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return bool(self._stream.isatty())

    def fileno(self) -> int:
        return int(self._stream.fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return str(self._stream.encoding)
