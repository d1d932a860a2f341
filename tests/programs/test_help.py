"""`--help` of every program is fast, and lists every flag that the documentation uses."""

import json
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
from reference_pack import ROOT

from yolos_jax.config.recipes import SETTINGS
from yolos_jax.programs.command_line import recipe_files

# Importing any of these takes between a third of a second and several seconds.
SLOW = {
    "array_record", "datasets", "flax", "gradio", "grain", "huggingface_hub", "jax", "jaxlib", "matplotlib", "optax",
    "orbax", "pycocotools", "scipy", "sklearn", "tensorboardX", "tensorflow", "tensorflow_datasets", "torch",
}  # fmt: skip
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
EXAMINATIONS = "attention", "tokens", "correlation", "cost", "positions", "runs"

# The lookahead excludes other names that start with yolos-: those of the package and the models.
COMMAND = re.compile(r"(?:^|[\s=])(yolos-(?!jax|tiny|small|base)[a-z-]+(?: .*)?)$")

# Prints, for each program, the exit code, its help and the slow modules imported since the previous program.
PROBE = """
import contextlib, importlib, io, json, sys
slow, found = set(json.loads(sys.argv[1])), {}
for name, target, flags in json.loads(sys.argv[2]):
    module, _, function = target.partition(":")
    sys.argv = [name.split()[0], *flags, "--help"]
    text, code = io.StringIO(), None
    with contextlib.redirect_stdout(text):
        try:
            getattr(importlib.import_module(module), function)()
        except SystemExit as end:
            code = end.code
    imported = {loaded.partition(".")[0] for loaded in sys.modules} & slow
    found[name] = [code, text.getvalue(), sorted(imported)]
    slow -= imported
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def asked():
    """The output of `PROBE`, from one process: a slow import is attributed to the first program that causes it."""
    programs = [(name, target, []) for name, target in SCRIPTS.items()]
    programs += [(f"yolos-analyze {name}", SCRIPTS["yolos-analyze"], [name]) for name in EXAMINATIONS]
    command = [sys.executable, "-c", PROBE, json.dumps(sorted(SLOW)), json.dumps(programs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


def test_help_imports_nothing_slow(asked):
    for name, (code, text, imported) in asked.items():
        assert code == 0 and text.startswith(f"usage: {name.split()[0]}"), name
        assert not imported, name


def commands_of(text: str) -> list[list[str]]:
    """The words of every command in a text: in code blocks, in backticks, or on separate lines."""
    text = text.replace("\\\n", " ")
    code = re.findall(r"^```.*?\n(.*?)^```", text, re.DOTALL | re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
    lines = [line for block in code for line in block.splitlines()]
    lines += [line for line in text.splitlines() if line.lstrip().startswith("yolos-")]
    found = [COMMAND.search(re.sub(r"\s#.*", "", line)) for line in lines]
    return [shlex.split(match.group(1)) for match in found if match]


def sources() -> dict[str, str]:
    """All texts that contain commands: the documentation, and the docstrings of programs and recipes."""
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    files += [*(ROOT / "yolos_jax" / "programs").glob("*.py"), *recipe_files().values()]
    return {str(file.relative_to(ROOT)): file.read_text() for file in files}


def test_documented_commands_exist(asked):
    """All programs, flags, settings and recipes in documented commands exist."""
    settings = {key for table in SETTINGS.values() for key in table}
    shown = [(file, words) for file, text in sources().items() for words in commands_of(text)]
    assert len(shown) > 100
    for file, (program, *words) in shown:
        where = file, program, words
        assert program in SCRIPTS, where
        name = f"{program} {words[0]}" if words and f"{program} {words[0]}" in asked else program
        known = set(re.findall(r"--[a-z][\w-]*(?![\w.-])", asked[name][1])) | {"--help"}
        for n, word in enumerate(words):
            flag, _, value = word.partition("=")
            if flag.startswith(("--config.", "--noconfig.")):
                key = flag.partition(".")[2]
                assert key in settings or not re.fullmatch(r"[a-z_.]+", key), where
            elif flag.startswith("--"):
                assert flag in known, where
            if flag == "--config":
                recipe = value or (words[n + 1] if n + 1 < len(words) else "RECIPE")
                is_ours = re.fullmatch(r"[a-z_0-9]+", recipe)
                assert not is_ours or recipe in recipe_files(), where
