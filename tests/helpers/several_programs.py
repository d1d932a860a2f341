"""Runs programs one after another in one process, for `process_pair.Pair`; the first one joins the other processes.

python several_programs.py '[[RECIPE, PROGRAM, FLAG, ...], ...]'
"""

import contextlib
import importlib
import json
import sys

from compiled_once import compiled_once

END = "--- ended with"  # before the exit code of each


def main(programs: list[list[str]]) -> None:
    """Programs with the same RECIPE share compiled programs; RECIPE can be any string."""
    last, shared, code = None, contextlib.ExitStack(), 0
    for recipe, name, *flags in programs:
        if recipe != last:
            shared.close()
            shared.enter_context(compiled_once())
            last = recipe
        sys.argv, code = [name, *flags], 0
        try:
            importlib.import_module(f"yolos_jax.programs.{name.removesuffix('.py')}").main()
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()
        print(f"\n{END} {code}", flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
