"""The published package: its requirements match the lock files, and its citation matches the paper."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import yolos_jax

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKED = ("demo", "test", "tfds")  # the extras in requirements.txt


def plain(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def test_locked_versions_satisfy_the_requirements():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    lock = dict(line.split("==") for line in lines if not line.startswith("#"))
    lock = {plain(name): version for name, version in lock.items()}
    extras = [text for extra in LOCKED for text in PROJECT["optional-dependencies"][extra]]
    wanted = [Requirement(text) for text in [*PROJECT["dependencies"], *extras]]
    wanted = [one for one in wanted if plain(one.name) != "yolos-jax"]
    assert len(wanted) > 25
    for one in wanted:
        assert lock[plain(one.name)] in one.specifier, one


def test_pinned_services_satisfy_the_requirements():
    lines = (ROOT / "requirements-sinks.txt").read_text().splitlines()
    lock = dict(line.lower().split("==") for line in lines if not line.startswith("#"))
    for extra in ("wandb", "mlflow", "trackio"):
        (one,) = map(Requirement, PROJECT["optional-dependencies"][extra])
        assert lock[one.name] in one.specifier and one.name == extra


def test_lock_file_for_the_site_pins_every_version():
    lines = (ROOT / "requirements-docs.txt").read_text().splitlines()
    names = [re.fullmatch(r"([\w.-]+)==[\w.]+", line) for line in lines if not line.startswith("#")]
    assert all(names)
    assert {"mkdocs-material", "mkdocstrings-python", "mkdocs-jupyter"} <= {name.group(1) for name in names}


def test_version_of_the_installed_package(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: f"1.2.3 of {name}")
    assert yolos_jax.__version__ == "1.2.3 of yolos-jax"

    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert yolos_jax.__version__ == "0+unknown"
    assert "version" in PROJECT["dynamic"]


def test_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (paper,) = citation["references"]
    authors = [author["family-names"] for author in paper["authors"]]
    assert authors == ["Fang", "Liao", "Wang", "Fang", "Qi", "Wu", "Niu", "Liu"]
    assert paper["url"].endswith("2106.00666") and citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]


@pytest.mark.parametrize("file", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda file: file.stem)
def test_workflows_call_existing_make_targets(file):
    workflow = yaml.safe_load(file.read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for step in steps:
        for target in re.findall(r"\bmake (?:-j\d+ )?([\w-]+)", step.get("run", "")):
            assert target in targets, target
