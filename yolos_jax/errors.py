"""The one exception that means "the user can mend this"."""

import errno
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

OUTPUT_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


class InputError(Exception):
    """Bad input, told in one sentence: what is wrong, where, what to do.

    Command-line programs print it without a traceback and exit with code 2;
    library users catch it like any other exception.
    """

    def leave(self) -> None:
        """Ends the program after the sentence has been printed."""
        sys.exit(2)


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
        error.leave()
    except OSError as error:
        if error.errno not in OUTPUT_TROUBLE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror}; look at the space and the permissions there.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
