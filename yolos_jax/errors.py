"""An exception for errors that the user can fix, and helpers for one-line error messages."""

import contextlib
import errno
import os
import re
import select
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

NO_ROOM, WRONG_NAME = "check the free space and the permissions there", "choose another path"
# What the user can do when a write fails.
OUTPUT_REMEDIES = {
    errno.ENOSPC: NO_ROOM, errno.EDQUOT: NO_ROOM, errno.EFBIG: NO_ROOM,
    errno.EROFS: NO_ROOM, errno.EACCES: NO_ROOM, errno.EPERM: NO_ROOM,
    errno.ENOTEMPTY: WRONG_NAME, errno.ENOTDIR: WRONG_NAME, errno.EISDIR: WRONG_NAME,
    errno.ENAMETOOLONG: "choose a shorter path",
}  # fmt: skip
FULL = {os.strerror(number): number for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)}
_outputs: list[str] = []  # folders that the program writes to; errors from failed writes rarely name them


ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/+)(.*)", re.DOTALL)
LOCAL = ("file", "local")  # schemes of addresses that denote local paths
ALIASES: dict[str, str] = {}  # addresses of remote folders, by the path of their local copy; see `address`


class InputError(Exception):
    """Invalid input. The message is one sentence that states the problem, its location and the fix.

    Command-line programs print it without a traceback and exit with code 2; library users catch it like any other
    exception. Line breaks, for example in file names, are shown as `\\n`.
    """

    def __init__(self, sentence: str = ""):
        super().__init__(one_line(sentence))

    def leave(self) -> None:
        """Ends the program after the error has been printed."""
        sys.exit(2)


def one_line(text: str) -> str:
    """Escapes line breaks, control characters and undecodable bytes in a text."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shown(value: Any) -> str:
    """Formats a value for an error message: shortened and on one line."""
    if isinstance(value, str | bytes):
        value = value[:100]
    try:
        text = " ".join(repr(value).split())
    except Exception:  # repr may fail: too many digits, a recursive list, a user-defined class
        return f"a value of type {type(value).__name__} that cannot be printed"
    return text if len(text) <= 100 else f"{text[:97]}..."


def with_addresses(text: str) -> str:
    """Replaces the paths of local copies in a message with the addresses of the remote folders."""
    for folder, address in ALIASES.items():
        text = text.replace(folder, address)
    return text


def address_of(path: Any) -> str:
    """The address in a path, such as `s3://bucket/run`; "" for a local path.

    `pathlib.Path` turns `//` into `/`; this is undone for schemes that fsspec supports.
    """
    found = ADDRESS.fullmatch(os.fspath(path)) if isinstance(path, str | os.PathLike) else None
    if found is None or found[1].lower() in LOCAL:
        return ""
    if len(found[2]) == 1:
        from fsspec import available_protocols, registry

        if found[1] not in {*available_protocols(), *registry}:
            return ""
    return f"{found[1]}://{found[3].rstrip('/')}"


def refuse_address(what: str, value: Any) -> None:
    """Raises `InputError` for an address where only local paths are supported; `what` is the flag or setting."""
    if address_of(value):
        raise InputError(
            f"{what} is {value}; it must be a local path: download the files, or mount the remote storage."
        )


def first_few(names: Sequence[str], most: int = 3) -> str:
    """Lists the first few names for a message, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def reason(error: BaseException) -> str:
    """Shortens the long error messages of orbax, tensorstore and fsspec's drivers."""
    text = str(error).strip() or type(error).__name__
    text = getattr(error, "strerror", None) or text
    full = "No space left" in text and not isinstance(error, OSError)
    return "No space left on the device" if full else text.split("\n")[0][:200]


def counted(n: int, one: str, many: str = "") -> str:
    """A number with a noun, such as `1 box` or `2 boxes`."""
    if n == 1:
        return f"1 {one}"
    return f"{n} {many or one + 's'}"


def make_folder(path: str | Path) -> Path:
    """Creates an output folder; raises `InputError` if that fails."""
    refuse_address("the output folder", path)
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            _outputs.append(str(path))
            return Path(path)
    except OSError as error:
        raise InputError(f"the folder {path} cannot be written to ({error.strerror or error}).") from error


def user_cache() -> Path:
    """The user's cache folder, which may not exist yet. Raises `RuntimeError` if the user has no home folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yolos-jax"


def check_path(path: str | Path) -> None:
    """Raises `InputError` for an invalid path, such as one with a name that is too long. The path need not exist.

    `Path.exists` and similar methods raise `OSError` or `ValueError` for some invalid paths.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # ValueError: a null byte
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path!s:.300} cannot be accessed ({reason}); choose another path.") from error


def check_spelling(path: str | Path) -> None:
    """Raises `InputError` for a path that is not UTF-8, which the libraries for checkpoints and records reject.

    Python decodes such bytes to lone surrogates, which are printed as `\\udcff`.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the path {path} has bytes that are not UTF-8; rename it or choose another path.") from error


def check_empty(folder: str | Path) -> None:
    """Raises `InputError` if an output folder is not empty. Call this before any work starts."""
    refuse_address("the output folder", folder)
    check_path(folder)
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} exists and is not an empty folder; choose another output folder.")


def reason_of_writing(error: BaseException) -> int | None:
    """The errno of a write error that the user can fix; None for any other error.

    If a disk is full, native libraries raise their own exceptions, which contain the system's message.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in OUTPUT_REMEDIES else None
    text = str(error)
    return next((number for words, number in FULL.items() if words in text), None)


@contextlib.contextmanager
def written(path: str | Path) -> Iterator[None]:
    """Converts a failure to write `path` to an `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} could not be written ({error.strerror or error}); check the free space.") from error


@contextlib.contextmanager
def flushed() -> Iterator[None]:
    """Flushes stdout at the end, even on `SystemExit`, because errors cannot be handled while Python is exiting."""
    try:
        yield
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def is_unread(stream: TextIO) -> bool:
    """Whether a stream is a pipe whose reader has closed it."""
    waiting = select.poll()
    waiting.register(stream, 0)
    return any(event & select.POLLERR for _, event in waiting.poll(0))


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Wraps a program: an `InputError` or a failed write becomes one line on stderr and exit code 2.

    If the reader of its output has exited (for example `head`), the program exits silently with the code for SIGPIPE.
    """
    _outputs.clear()
    try:
        with flushed():
            yield
    except BrokenPipeError:
        left = [stream for stream in (sys.stdout, sys.stderr) if is_unread(stream)]
        if not left:
            raise
        with open(os.devnull, "w") as nowhere:
            for stream in left:  # Python flushes them again at exit
                os.dup2(nowhere.fileno(), stream.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except InputError as error:
        print(f"error: {with_addresses(str(error))}", file=sys.stderr)
        error.leave()
    except Exception as error:
        reason = reason_of_writing(error)
        if reason is None:
            raise
        where = getattr(error, "filename", None) or " or ".join(dict.fromkeys(_outputs))
        where = f"{where}: " if where else ""
        print(f"error: {where}{os.strerror(reason)}; {OUTPUT_REMEDIES[reason]}.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
