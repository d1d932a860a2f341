"""Command-line parsing shared by the programs: error messages, and `--config` with all settings of a recipe."""

import argparse
import ast
import gc
import io
import itertools
import os
import runpy
import sys
from pathlib import Path
from typing import Any, NoReturn

from absl import logging
from ml_collections import ConfigDict

from yolos_jax.address import copied, local_path
from yolos_jax.config.reader import Table, assign, flat, read_any, unknown
from yolos_jax.config.recipes import ARCHITECTURE, DETECTION, OWN, SETTINGS, require, task_of
from yolos_jax.errors import InputError, check_path, refuse_address
from yolos_jax.user_files import check_file

MOST_BYTES = 2**24  # maximum size of a recipe file
PACKAGE = Path(__file__).resolve().parents[1]
RECIPES = PACKAGE / "configs", PACKAGE.parent / "configs"  # when installed, in a checkout


class Parser(argparse.ArgumentParser):
    """Parses a program's flags; for invalid ones, prints one line to stderr and exits with code 2."""

    declared: Table = SETTINGS[DETECTION]
    addresses: tuple[str, ...] = ("checkpoint",)  # flags that also accept an address such as gs://bucket/run
    others: tuple[str, ...] = ("images", "config", "host", "coordinator")  # flags whose values may not be local paths

    def __init__(self, description: str | None, usage: str | None = None):
        print_anything()
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, usage=usage, formatter_class=raw, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        print(f"error: {' '.join(message.split())} (see --help)", file=sys.stderr)
        sys.exit(2)

    def add_detector_flags(self, required: bool = True) -> None:
        """Adds --checkpoint (of a detector), --short-side and --max-side; `required` applies to --checkpoint."""
        self.add_argument("--checkpoint", required=required, help="checkpoint folder, Hugging Face folder, or hub id")
        self.add_argument("--short-side", type=int, help="short side in pixels (default: as in training, else 800)")
        self.add_argument(
            "--max-side",
            type=int,
            help="maximum long side in pixels (default: as in training, else 1333/800 times the short side)",
        )

    def add_nms_flag(self) -> None:
        """Adds --nms, non-maximum suppression, which is off by default."""
        text = "remove detections whose IoU with a higher-scoring one of the same class exceeds this (default: off)"
        self.add_argument("--nms", type=_share, metavar="IOU", help=text)

    def add_font_flag(self) -> None:
        """Adds --font, the font for class names."""
        text = "font file for class names in drawn images and figures (default: DejaVu Sans)"
        self.add_argument("--font", default="", metavar="FILE", help=text)

    def parse(self) -> argparse.Namespace:
        """Parses this process's command line."""
        collect_seldom()
        args, rest = self.parse_known_args()
        if rest:
            name, _, _ = rest[0].partition("=")
            key, is_setting = name.removeprefix("--config."), name.startswith("--config.")
            self.error(unknown(key, self.declared) if is_setting else f"unexpected argument {rest[0]!r}")
        for name, value in vars(args).items():  # a shell does not expand `--workdir=~/runs`
            setattr(args, name, self._local(name, value))
        return args

    def _local(self, name: str, value: Any) -> Any:
        """Expands a local path or a list of them; rejects addresses for flags that do not accept them."""
        if isinstance(value, list):
            return [self._local(name, each) for each in value]
        if not isinstance(value, str | Path) or name.startswith("config."):
            return value
        try:
            if name not in self.addresses + self.others:
                spellings = [action.option_strings or [str(action.metavar or name)] for action in self._actions]
                names = [action.dest for action in self._actions]
                refuse_address(spellings[names.index(name)][0], value)
            return _local(value)
        except InputError as error:
            self.error(str(error))


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return value


def print_anything() -> None:
    """Escapes output that the terminal cannot encode (é becomes `\\xe9`), including path bytes that are not UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def collect_seldom() -> None:
    """Makes Python's cyclic garbage collection less frequent.

    Tracing creates millions of small long-lived objects, and scanning them takes a fifth of the tracing time.
    """
    gc.set_threshold(100_000, 50, 100)


def _local(value: Any) -> Any:
    """Expands `~` at the start of a path, and removes a `file://` prefix."""
    return type(value)(os.path.expanduser(local_path(str(value))))


class ListRecipes(argparse.Action):
    """Prints the name of every recipe and the first line of its description, and exits."""

    def __call__(self, *_: Any) -> NoReturn:
        for name, path in recipe_files().items():
            description = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            first = description.splitlines()[0] if description else ""
            print(f"{name:<20} {first}")
        sys.exit(0)


class RecipeParser(Parser):
    """A parser for programs that use a recipe: `--config RECIPE`, and `--config.KEY=VALUE` for each of its settings.

    The settings, and their defaults in `--help`, depend on the recipe specified on the command line.

    Args:
      tasks: the accepted tasks; without a recipe, `--help` lists the settings of the first task.
      recorded: if `--config` is absent, use the recipe recorded in the checkpoint that `--checkpoint` specifies.
    """

    def __init__(self, description: str | None, tasks: tuple[str, ...] = (DETECTION,), recorded: bool = False):
        first = "--checkpoint CHECKPOINT [--config RECIPE]" if recorded else "--config RECIPE"
        super().__init__(description, f"%(prog)s {first} [FLAGS] [--config.KEY=VALUE ...]")
        text = "the recipe: a file, or a name such as yolos_s; RECIPE:TEXT passes TEXT to its get_config()"
        text += " (default: the one recorded in the checkpoint)" if recorded else ""
        self.add_argument("--config", required=not recorded, metavar="RECIPE", help=text)
        self._recorded = recorded
        self.add_argument("--list", action=ListRecipes, nargs=0, help="list the recipes and exit")
        self.tasks = tasks
        self._loaded: dict[str, ConfigDict] = {}  # so that a recipe's code runs only once
        named = self._named()
        self.declared = SETTINGS[tasks[0] if named is None else task_of(named)]
        values = {} if named is None else flat(named, self.declared)
        left = {f"model.{name}" for name in ARCHITECTURE if values.get("model.from_init", OWN) != OWN} - values.keys()
        group = self.add_argument_group("settings of the recipe")
        for key, found in self.declared.items():
            default = "from the weights" if key in left else repr(values.get(key, found.default))
            text = f"{found.setting.meaning} (default {default})".replace("%", "%%")
            how: dict[str, Any] = {"metavar": "VALUE", "default": argparse.SUPPRESS}
            if found.type is bool:
                how |= {"nargs": "?", "const": "True"}
                hidden: dict[str, Any] = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
                name = f"--noconfig.{key}"
                group.add_argument(name, dest=f"config.{key}", action="store_const", const="False", **hidden)
            group.add_argument(f"--config.{key}", help=text, **how)

    def _named(self) -> ConfigDict | None:
        """The recipe given on the command line; None if there is none, it is unreadable, or it is for another task."""
        named = _words_of("--config")
        checkpoint = _words_of("--checkpoint") if self._recorded else []
        try:
            recipe = self._load(named[-1] if named else None, checkpoint[-1] if checkpoint else "")
        except InputError:  # reported later, by `parse_recipe`
            return None
        return recipe if recipe is not None and task_of(recipe) in self.tasks else None

    def _load(self, name: str | None, checkpoint: str) -> ConfigDict | None:
        """The recipe with this name, or else the one recorded in a checkpoint; None if neither is given."""
        if name is None and not checkpoint:
            return None
        key = f"the recipe of {checkpoint}" if name is None else name
        if key not in self._loaded:
            self._loaded[key] = load_recipe(name) if name is not None else recorded_recipe(_local(checkpoint))
        return self._loaded[key]

    def add_process_flags(self) -> None:
        """Adds the flags for running in several processes, see `launch.join`."""
        self.add_argument("--coordinator", default="", help="HOST:PORT of process 0, if no launcher sets it")
        self.add_argument("--processes", type=int, default=0, help="number of processes, if no launcher sets it")
        self.add_argument("--process", type=int, default=-1, help="index of this process: 0, 1, ...")
        text = "run as one of several processes; auto detects Slurm, Open MPI and TPU hosts (default auto)"
        self.add_argument("--distributed", choices=("auto", "on", "off"), default="auto", help=text)

    def parse_recipe(self) -> tuple[argparse.Namespace, Any]:
        """Returns the flags, and the config of the recipe with the settings from the command line.

        The attribute `recipe` of the flags is the same config before defaults are filled in.
        """
        if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
            # Callbacks that wait for each other must not occupy all threads of the CPU client.
            os.environ.setdefault("NPROC", "32")
        logging.set_verbosity(logging.FATAL)  # libraries log errors that they also raise
        args = self.parse()
        try:
            config = self._load(args.config, getattr(args, "checkpoint", ""))
            if config is None:
                self.error("specify a recipe with --config, or a checkpoint that contains one")
            if task_of(config) not in self.tasks:
                require(config, self.tasks[0])
            for name, text in vars(args).items():
                if name.startswith("config."):
                    assign(config, name.removeprefix("config."), text)
            args.recipe = config
            return args, read_any(config)
        except InputError as error:
            self.error(str(error))


def say(note: str) -> None:
    """Prints a note to stderr, unless it is empty."""
    if note:
        print(f"note: {note}", file=sys.stderr)


def recipe_files() -> dict[str, Path]:
    """Maps the name of each built-in recipe to its file; recipes in `paper/` come last."""
    folders = [*RECIPES, *(place / "paper" for place in RECIPES)]
    files = [file for folder in folders for file in sorted(folder.glob("*.py")) if file.stem != "__init__"]
    return {file.stem: file for file in files}


def _words_of(flag: str) -> list[str]:
    """The values of a flag on the command line."""
    words = sys.argv[1:]
    joined = [word.removeprefix(f"{flag}=") for word in words if word.startswith(f"{flag}=")]
    return joined + [after for word, after in itertools.pairwise(words) if word == flag]


def recorded_recipe(checkpoint: str) -> ConfigDict:
    """The config of the run that wrote a checkpoint; `InputError` if the checkpoint does not contain it.

    Drops settings that no longer exist, and prints a note about each.
    """
    from yolos_jax.training import checkpoint_files
    from yolos_jax.weights import checkpoints, hub_model

    path = Path(copied(checkpoint))
    check_path(path)
    foreign = hub_model(checkpoint) or path.is_file() or (path / "config.json").is_file()
    found = checkpoints.recorded_recipe(path) if checkpoint_files.steps(path) or not foreign else None
    if found is None:
        why = "training checkpoints have one; converted weights, Hugging Face folders and models on the hub do not"
        raise InputError(f"{checkpoint} contains no recipe ({why}); specify one with --config.")
    table = SETTINGS[task_of(found)]
    for key in [key for key in flat(found, table) if key not in table]:
        section, _, name = key.rpartition(".")
        del (found[section] if section else found)[name]
        say(f"the recipe of {checkpoint} has {key}, which is no longer a setting and is ignored")
    return ConfigDict(found)


def load_recipe(name: str) -> ConfigDict:
    """The config of a recipe: a Python file with `get_config()`, or the name of a built-in recipe such as `yolos_s`.

    `FILE:TEXT` calls `get_config(TEXT)`. Raises `InputError` if the file does not exist or returns no config.
    """
    check_path(name)
    file, *arguments = [name] if Path(name).is_file() else name.split(":", 1)
    path = Path(file) if Path(file).is_file() else recipe_files().get(file)
    if path is None:
        raise InputError(f"the config file {file} does not exist.")
    check_file(path, "the config file", MOST_BYTES)
    try:
        config = runpy.run_path(str(path), run_name="recipe")["get_config"](*arguments)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code can raise anything
        if error.args == ("get_config",):
            raise InputError(f"the config file {path} has no function get_config().") from error
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(f"the config file {path} cannot be run ({reason}).") from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"get_config() of the config file {path} returned {type(config).__name__}, not ConfigDict.")
    return ConfigDict(config)  # a copy, since the original may be frozen
