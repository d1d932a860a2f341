"""What the programs that take `--config` share."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from yolos_jax.distributed import launch
from yolos_jax.errors import exit_with_sentence

PACKAGE = Path(__file__).resolve().parent
RECIPES = PACKAGE / "configs", PACKAGE.parent / "configs"  # installed, or in a checkout


def recipe_file(name: str) -> str:
    """The file of a recipe: the path given, or one of ours by its name, such as `yolos_s`."""
    if not Path(name).is_file():
        for folder in RECIPES:
            if (folder / f"{name}.py").is_file():
                return str(folder / f"{name}.py")
    return name


def run_with_config(main: Callable[[object], object], usage: str) -> None:
    """Parses flags, among them `--config FILE` and `--config.key=value`, and calls `main(config)`.

    FILE may be the name of one of our recipes. `--help` tells the flags of the module of `main`.
    Flags that cannot be parsed are one sentence and exit code 2, like all bad input.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        # Threads of the CPU client: callbacks that wait for each other must not use them up.
        os.environ.setdefault("NPROC", "32")
    # What libraries log on the way to an exception, which is told in one sentence or raised, traceback and all.
    logging.set_verbosity(logging.FATAL)
    config = config_flags.DEFINE_config_file("config", None, "The recipe: a file, or a name such as yolos_s.")
    flags.mark_flag_as_required("config")
    for module in (main.__module__, __name__):
        for flag in flags.FLAGS.get_flags_for_module(module):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)

    def parse(argv: list[str]) -> list[str]:
        try:
            rest = flags.FLAGS(_with_recipe_files(argv))
            if len(rest) > 1:
                raise flags.Error(f"unexpected argument {rest[1]!r}")
            _ = config.value.to_dict  # a file that failed to load tells so only when it is used
            return rest
        except Exception as error:  # config files are programs and may raise anything
            print(f"error: {' '.join(str(error).split())} (see --help)", file=sys.stderr)
            sys.exit(2)

    sys.modules["__main__"].__doc__ = usage
    app.run(lambda _: launch.guarded(lambda: exit_with_sentence(lambda: main(config.value))), flags_parser=parse)


def flags_of_hosts() -> Callable[[], None]:
    """Defines the flags of programs that run in several processes; call what it returns before jax does anything."""
    coordinator = flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, where no launcher says it.")
    processes = flags.DEFINE_integer("processes", 0, "Number of processes, where no launcher says it.")
    process = flags.DEFINE_integer("process", -1, "Which process this is: 0, 1, ...")
    mode = flags.DEFINE_enum(
        "distributed",
        "auto",
        ("auto", "on", "off"),
        "One of several? auto: as Slurm, Open MPI or TPU hosts say.",
    )
    return lambda: launch.join(coordinator.value, processes.value, process.value, mode.value)


def _with_recipe_files(argv: list[str]) -> list[str]:
    """The command line with the name of a recipe replaced by its file."""
    out = list(argv)
    for i, word in enumerate(argv):
        option, equals, value = word.partition("=")
        if option in ("--config", "-config") and equals:
            out[i] = f"{option}={recipe_file(value)}"
        elif option in ("--config", "-config") and i + 1 < len(argv):
            out[i + 1] = recipe_file(argv[i + 1])
    return out
