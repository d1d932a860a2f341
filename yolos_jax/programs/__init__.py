"""The programs: they turn flags into library calls. They are installed as yolos-train, yolos-eval and so on.

Ctrl-C is one word, also while modules are imported and flags are read.
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
