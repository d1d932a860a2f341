"""The package's structure: three rings, imports that point inwards, no cycles, and short files and functions."""

import ast
import tomllib
from functools import cache
from pathlib import Path

import yolos_jax

PACKAGE = Path(yolos_jax.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
CORE = {"model", "objective", "images", "data", "distributed", "training"}
AROUND = {"accelerators", "config", "datasets", "weights", "evaluation", "inference", "tasks"}
OUTSKIRTS = {"tools", "programs"}
LOOSE = {"__init__.py", "address.py", "errors.py", "setting.py", "user_files.py"}
NEWCOMER = [
    "programs/train.py", "training/loop.py", "training/run.py", "training/step.py", "tasks/detection.py",
    "model/yolos.py", "objective/losses.py",
]  # fmt: skip
MOST_LINES, MOST_OF_A_FUNCTION, MOST_OF_THE_CORE, MOST_OF_THE_PACKAGE = 500, 60, 5500, 26_100
MOST_TO_READ, MOST_OF_THE_LOOP = 1200, 60


def name_of(file: Path) -> str:
    """The module name of a file, without the package's name (for example `model.yolos`)."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


NAMES = {name_of(file): file for file in FILES}


@cache
def imports_of(name: str) -> frozenset[str]:
    """The modules of this package that a module imports, including imports inside functions."""
    found = set()
    for node in ast.walk(ast.parse(NAMES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {module if module.removeprefix("yolos_jax.") in NAMES else node.module for module in inside}
    own = {module.removeprefix("yolos_jax").removeprefix(".") for module in found if module.startswith("yolos_jax")}
    return frozenset(own & NAMES.keys() - {"", name})


def closure(name: str, imports=imports_of) -> set[str]:
    """All modules that `name` imports, directly or transitively; includes `name` itself only if there is a cycle."""
    found: set[str] = set()
    left = [name]
    while left:
        for other in imports(left.pop()) - found:
            found.add(other)
            left.append(other)
    return found


def lines(*files: Path) -> int:
    return sum(file.read_text().count("\n") for file in files)


def test_no_import_cycles_between_files():
    circles = {name for name in NAMES if name in closure(name)}
    assert not circles


def test_no_import_cycles_between_folders():
    """Checks the top-level folders of the package, but not the files next to them."""
    folders: dict[str, set[str]] = {}
    for name in NAMES:
        others = {other.partition(".")[0] for other in imports_of(name) if "." in other}
        folders.setdefault(name.partition(".")[0], set()).update(others - {name.partition(".")[0]})
    circles = {folder for folder in folders if folder and folder in closure(folder, folders.__getitem__)}
    assert not circles


def test_rings():
    """The core imports only itself, the middle ring does not import the outer one, and only programs import tools."""
    folders = {name.partition(".")[0] for name in NAMES if "." in name}
    assert folders == CORE | AROUND | OUTSKIRTS
    assert {file.name for file in PACKAGE.glob("*.py")} <= LOOSE
    allowed = dict.fromkeys(CORE, CORE) | dict.fromkeys(AROUND, CORE | AROUND)
    allowed |= {"tools": CORE | AROUND | {"tools"}, "programs": CORE | AROUND | OUTSKIRTS}
    for name in NAMES:
        ring = name.partition(".")[0]
        if ring in allowed:
            others = {other.partition(".")[0] for other in imports_of(name)}
            reached = others - {"address", "errors", "setting", "user_files"}
            assert reached <= allowed[ring], name


def test_core_is_small_and_step_has_few_imports():
    core = [file for name, file in NAMES.items() if name.partition(".")[0] in CORE]
    assert lines(*core) <= MOST_OF_THE_CORE
    assert lines(*FILES) <= MOST_OF_THE_PACKAGE
    assert len(closure("training.step") | {"training.step"}) <= 4


def test_files_for_newcomers_are_short():
    assert lines(*(PACKAGE / file for file in NEWCOMER)) <= MOST_TO_READ
    assert lines(PACKAGE / "training" / "loop.py") <= MOST_OF_THE_LOOP


def test_files_and_functions_are_short():
    for file in FILES:
        text = file.read_text()
        assert text.count("\n") <= MOST_LINES, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < MOST_OF_A_FUNCTION, (file, node.name)
    assert lines(PACKAGE.parent / "README.md") <= 130


def test_every_folder_is_installed():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    folders = {".".join(("yolos_jax", *f.parent.relative_to(PACKAGE).parts)) for f in PACKAGE.rglob("__init__.py")}
    recipes = {"yolos_jax.configs"}
    recipes |= {"yolos_jax.configs.paper"} if (PACKAGE.parent / "configs" / "paper").is_dir() else set()
    assert set(project["tool"]["setuptools"]["packages"]) == folders | recipes
