"""What the programs that take `--config` share."""

import sys
from collections.abc import Callable

from absl import app, flags
from ml_collections import config_flags

from yolos_jax.errors import exit_with_sentence


def run_with_config(main: Callable[[object], object], usage: str) -> None:
    """Parses flags, among them `--config FILE` and `--config.key=value`, and calls `main(config)`.

    Flags that cannot be parsed are one sentence and exit code 2, like all bad input.
    """
    config = config_flags.DEFINE_config_file("config", None, "The recipe, such as configs/yolos_s.py.")
    flags.mark_flag_as_required("config")

    def parse(argv: list[str]) -> list[str]:
        try:
            rest = flags.FLAGS(argv)
            if len(rest) > 1:
                raise flags.Error(f"unexpected argument {rest[1]!r}")
            return rest
        except Exception as error:  # config files are programs and may raise anything
            print(f"error: {' '.join(str(error).split())} (see --help)", file=sys.stderr)
            sys.exit(2)

    sys.modules["__main__"].__doc__ = usage
    app.run(lambda _: exit_with_sentence(lambda: main(config.value)), flags_parser=parse)
