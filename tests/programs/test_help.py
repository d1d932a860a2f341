"""`--help` of every program: it is there at once, since nothing slow is imported for it."""

import json
import subprocess
import sys
import tomllib

from reference_pack import ROOT

# Each takes between a third of a second and several seconds to import.
SLOW = {
    "array_record", "datasets", "flax", "gradio", "grain", "huggingface_hub", "jax", "jaxlib", "matplotlib", "optax",
    "orbax", "pycocotools", "scipy", "sklearn", "tensorboardX", "tensorflow", "tensorflow_datasets", "torch",
}  # fmt: skip

# Prints, for each program, the exit code, the first word of its help and the slow modules imported since the last one.
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
    found[name] = [code, text.getvalue().split()[0], sorted(imported)]
    slow -= imported
print(json.dumps(found))
"""


def test_help_of_every_program_imports_nothing_slow():
    """One process asks all of them, so that a slow import is the fault of the first program that is listed with it."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    asked = [(name, target, []) for name, target in scripts.items()]
    commands = "attention", "tokens", "correlation", "cost", "positions", "runs"
    asked += [(f"yolos-analyze {command}", scripts["yolos-analyze"], [command]) for command in commands]
    command = [sys.executable, "-c", PROBE, json.dumps(sorted(SLOW)), json.dumps(asked)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == {name: [0, "usage:", []] for name, _, _ in asked}
