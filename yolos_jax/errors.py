"""The one exception that means "the user can mend this"."""

import sys
from collections.abc import Callable


class InputError(Exception):
    """Bad input, told in one sentence: what is wrong, where, what to do.

    Command-line programs print it without a traceback and exit with code 2;
    library users catch it like any other exception.
    """


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
