"""The package's structure: imports point one way, and files and functions stay short."""

import ast
import tomllib
from pathlib import Path

import pytest

import yolos_jax

PACKAGE = Path(yolos_jax.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# What each part may import of the package, besides itself, errors, kinds and naming.
MAY_IMPORT = {
    "images": set(),
    "model": set(),
    "objective": set(),
    "data": {"images"},
    "compiled": set(),
    "distributed": set(),
    "checkpoints": {"model"},
    "training": {"checkpoints", "data", "distributed", "plotting", "settings"},
    "plotting": set(),
    "analysis": {
        *["data", "distributed", "evaluation", "images", "inference", "model", "objective", "plotting", "training"]
    },
    "page": {"analysis", "images", "inference"},
    "weights": {"checkpoints", "evaluation", "images", "model"},
    "inference": {"checkpoints", "compiled", "images", "model", "objective", "weights"},
    "evaluation": {"data", "distributed", "images", "inference", "model", "objective"},
    "exporting": {"checkpoints", "images", "inference", "model"},
    "settings": {"model", "objective", "settings_pretrain", "settings_tables"},
    "settings_pretrain": {"data", "model"},
    "settings_tables": set(),
}
MOST_LINES, MOST_OF_A_FUNCTION, MOST_OF_THE_LOOP = 300, 60, 150


def imported(tree):
    """Top-level parts of the package that a module imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "yolos_jax":
            names = node.module.split(".")[1:2] or [alias.name for alias in node.names]
            yield from names


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_point_one_way(part):
    files = [f for f in FILES if f.relative_to(PACKAGE).parts[0] in (part, f"{part}.py")]
    assert files
    for file in files:
        others = set(imported(ast.parse(file.read_text()))) - MAY_IMPORT[part] - {part, "errors", "kinds", "naming"}
        assert not others, (file.name, others)


def test_files_and_functions_are_short():
    for file in FILES:
        text = file.read_text()
        assert text.count("\n") <= MOST_LINES, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < MOST_OF_A_FUNCTION, (file, node.name)
    assert (PACKAGE / "training" / "loop.py").read_text().count("\n") <= MOST_OF_THE_LOOP
    assert (PACKAGE.parent / "README.md").read_text().count("\n") <= 150


def test_no_two_files_of_one_name_but_programs_and_what_they_run():
    """`programs/eval.py` and the like are named after what they do; recipes lie outside of the package."""
    names = [f.name for f in FILES if f.name != "__init__.py" and f.parent.name != "programs"]
    assert sorted(names) == sorted(set(names))


def test_every_folder_is_installed():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    folders = {".".join(("yolos_jax", *f.parent.relative_to(PACKAGE).parts)) for f in PACKAGE.rglob("__init__.py")}
    assert set(project["tool"]["setuptools"]["packages"]) == folders | {"yolos_jax.configs"}
