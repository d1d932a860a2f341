"""Command-line programs, installed as yolos-train, yolos-eval and so on. Each turns its flags into library calls.

On Ctrl-C, they print "interrupted" instead of a traceback, even during imports and flag parsing.
"""

import sys
from types import TracebackType

_before = sys.excepthook


def _without_traceback(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        _before(kind, error, traceback)


sys.excepthook = _without_traceback
