"""The one exception that means "the user can mend this"."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


class InputError(Exception):
    """Bad input, told in one sentence: what is wrong, where, what to do.

    Command-line programs print it without a traceback and exit with code 2;
    library users catch it like any other exception.
    """


def make_folder(path: str | Path) -> Path:
    """Creates a folder that output goes to, before any work is done; `InputError` if that is impossible."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise InputError(f"the folder {path} cannot be written to ({error.strerror or error}).") from error


def exit_with_sentence(main: Callable[[], object]) -> None:
    """Runs `main`; an `InputError` becomes one line on stderr and exit code 2."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
