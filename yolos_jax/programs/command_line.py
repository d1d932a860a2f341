"""What the programs' command lines share: how mistakes are reported, and `--config` with every setting of a recipe."""

import argparse
import gc
import itertools
import os
import runpy
import sys
from pathlib import Path
from typing import Any, NoReturn

from absl import logging
from ml_collections import ConfigDict

from yolos_jax.config import settings
from yolos_jax.errors import InputError, check_path

PACKAGE = Path(__file__).resolve().parents[1]
RECIPES = PACKAGE / "configs", PACKAGE.parent / "configs"  # installed, or in a checkout


class Parser(argparse.ArgumentParser):
    """Parses a program's flags; a command line that cannot be parsed is one line on stderr and exit code 2."""

    declared: settings.Settings = settings.SETTINGS

    def __init__(self, description: str | None, usage: str | None = None):
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, usage=usage, formatter_class=raw, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        print(f"error: {' '.join(message.split())} (see --help)", file=sys.stderr)
        sys.exit(2)

    def add_detector_flags(self, required: bool = True) -> None:
        """Adds a detector's checkpoint, which may be `required`, and what images are resized to."""
        self.add_argument("--checkpoint", required=required, help="checkpoint folder, Hugging Face folder, or hub id")
        self.add_argument("--short-side", type=int, help="pixels of the short side (default: as trained, else 800)")
        self.add_argument("--max-side", type=int, help="most pixels of the long side (default: in proportion)")

    def parse(self) -> argparse.Namespace:
        """The flags of this process's command line."""
        collect_seldom()
        args, rest = self.parse_known_args()
        if rest:
            name, _, _ = rest[0].partition("=")
            key, is_setting = name.removeprefix("--config."), name.startswith("--config.")
            self.error(settings.unknown(key, self.declared) if is_setting else f"unexpected argument {rest[0]!r}")
        for name, value in vars(args).items():  # a shell leaves `--workdir=~/runs` as it is
            setattr(args, name, _at_home(value))
        return args


def collect_seldom() -> None:
    """Has Python look for unused cycles of objects less often.

    Tracing makes millions of small objects that live on, and looking through them takes a fifth of its time.
    """
    gc.set_threshold(100_000, 50, 100)


def _at_home(value: Any) -> Any:
    """A path that starts with `~`, or several, from the user's home folder; anything else as it is."""
    if isinstance(value, list):
        return [_at_home(each) for each in value]
    if isinstance(value, str | Path) and str(value).startswith("~"):
        return type(value)(os.path.expanduser(value))
    return value


class RecipeParser(Parser):
    """The same for a program with a recipe: `--config FILE`, and `--config.KEY=VALUE` for each of its settings.

    Args:
      tasks: what recipes may train. The settings are those of the recipe named on the command line; if it is of none
        of these tasks, or there is none, those of the first.
    """

    def __init__(self, description: str | None, tasks: tuple[str, ...] = (settings.DETECTION,)):
        super().__init__(description, "%(prog)s --config RECIPE [FLAGS] [--config.KEY=VALUE ...]")
        text = "the recipe: a file, or a name such as yolos_s; RECIPE:TEXT passes TEXT to its get_config"
        self.add_argument("--config", required=True, metavar="RECIPE", help=text)
        self.tasks = tasks
        self.declared = settings.TASKS[tasks[0] if len(tasks) == 1 else self._task()]
        group = self.add_argument_group("settings of the recipe")
        for key, setting in self.declared.items():
            text = f"{setting.meaning} (default {setting.default!r})".replace("%", "%%")
            group.add_argument(f"--config.{key}", metavar="VALUE", default=argparse.SUPPRESS, help=text)
        for former in settings.former(self.declared):
            group.add_argument(f"--config.{former}", default=argparse.SUPPRESS, help=argparse.SUPPRESS)

    def _task(self) -> str:
        """The task of the recipe that the command line names; the first one if that cannot be told yet."""
        words = sys.argv[1:]
        named = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
        named += [after for word, after in itertools.pairwise(words) if word == "--config"]
        try:
            task = settings.task_of(load_recipe(named[-1])) if named else self.tasks[0]
        except InputError:  # which is reported when the flags are read
            return self.tasks[0]
        return task if task in self.tasks else self.tasks[0]

    def add_process_flags(self) -> None:
        """Adds the flags of programs that run in several processes, for `launch.join`."""
        self.add_argument("--coordinator", default="", help="HOST:PORT of process 0, where no launcher says it")
        self.add_argument("--processes", type=int, default=0, help="number of processes, where no launcher says it")
        self.add_argument("--process", type=int, default=-1, help="which process this is: 0, 1, ...")
        text = "one of several processes? auto: as Slurm, Open MPI or TPU hosts say"
        self.add_argument("--distributed", choices=("auto", "on", "off"), default="auto", help=text)

    def parse_recipe(self) -> tuple[argparse.Namespace, ConfigDict]:
        """(the flags, the recipe with the settings of the command line, completed and checked)."""
        if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
            # Threads of the CPU client: callbacks that wait for each other must not use them up.
            os.environ.setdefault("NPROC", "32")
        logging.set_verbosity(logging.FATAL)  # libraries log errors that they also raise
        args = self.parse()
        try:
            config = load_recipe(args.config)
            if settings.task_of(config) not in self.tasks:
                settings.require(config, self.tasks[0])
            for name, text in vars(args).items():
                if name.startswith("config."):
                    settings.assign(config, name.removeprefix("config."), text)
            return args, settings.complete(config)
        except InputError as error:
            self.error(str(error))


def say(note: str) -> None:
    """Prints a note, if there is one, beside what a program prints."""
    if note:
        print(f"note: {note}", file=sys.stderr)


def load_recipe(name: str) -> ConfigDict:
    """The config of a recipe: a Python file with `get_config()`, or one of ours by its name, such as `yolos_s`.

    `FILE:TEXT` calls `get_config(TEXT)`. An `InputError` says that there is no such file, or that it gives no config.
    """
    check_path(name)
    file, *arguments = [name] if Path(name).is_file() else name.split(":", 1)
    places = [Path(file), *(folder / f"{file}.py" for folder in RECIPES)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise InputError(f"the config file {file} does not exist.")
    try:
        config = runpy.run_path(str(path), run_name="recipe")["get_config"](*arguments)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code can raise anything
        reason = "there is none" if error.args == ("get_config",) else f"{type(error).__name__}: {error}"
        raise InputError(f"the config file {path} gives no get_config() ({' '.join(reason.split())[:300]}).") from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"get_config() of the config file {path} returns a {type(config).__name__}, not a ConfigDict.")
    return ConfigDict(config)  # a frozen one can be changed then, too
