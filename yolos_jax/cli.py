"""What the programs that take `--config` share."""

import os
import sys
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import config_flags

from yolos_jax.errors import exit_with_sentence


def run_with_config(main: Callable[[object], object], usage: str) -> None:
    """Parses flags, among them `--config FILE` and `--config.key=value`, and calls `main(config)`.

    Flags that cannot be parsed are one sentence and exit code 2, like all bad input.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        # Threads of the CPU client: callbacks that wait for each other must not use them up.
        os.environ.setdefault("NPROC", "32")
    # What libraries log on the way to an exception, which is told in one sentence or raised, traceback and all.
    logging.set_verbosity(logging.FATAL)
    config = config_flags.DEFINE_config_file("config", None, "The recipe, such as configs/yolos_s.py.")
    flags.mark_flag_as_required("config")

    def parse(argv: list[str]) -> list[str]:
        try:
            rest = flags.FLAGS(argv)
            if len(rest) > 1:
                raise flags.Error(f"unexpected argument {rest[1]!r}")
            _ = config.value.to_dict  # a file that failed to load tells so only when it is used
            return rest
        except Exception as error:  # config files are programs and may raise anything
            print(f"error: {' '.join(str(error).split())} (see --help)", file=sys.stderr)
            sys.exit(2)

    sys.modules["__main__"].__doc__ = usage
    app.run(lambda _: exit_with_sentence(lambda: main(config.value)), flags_parser=parse)
