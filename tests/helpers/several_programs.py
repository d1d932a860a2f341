"""Runs programs one after another in one process; the first one may connect to other processes.

python several_programs.py '[[RECIPE, PROGRAM, FLAG, ...], ...]'
"""

import contextlib
import importlib
import json
import sys

from compiled_once import compiled_once

END = "--- ended with"  # printed before the exit code of each program


def main(programs: list[list[str]]) -> None:
    """Consecutive programs with the same RECIPE, which can be any string, share compiled programs."""
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
