"""Links in the documentation work, its site has every page, and the API reference has every public name."""

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest
import yaml

import yolos_jax

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
ORDER = [
    "Home", "Detect", "Fine-tune", "Your data", "Evaluate", "Examine", "Accelerators", "Several hosts", "Weights",
    "Export", "Pre-training", "Design", "Settings", "API",
]  # fmt: skip
SHOWN = re.compile(r"^::: (\S+)$", re.MULTILINE)
REFERENCE = sorted(name for page in (DOCS / "api").glob("*.md") for name in SHOWN.findall(page.read_text()))


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as on GitHub and the site, and of the names in the API reference."""
    text = page.read_text()
    headings = re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower().strip() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain} | {*SHOWN.findall(text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_work(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def pages_of(entry) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    values = entry.values() if isinstance(entry, dict) else entry
    return [page for value in values for page in pages_of(value)]


def test_site_has_every_page_once_and_in_order():
    text = re.sub(r"!!python/\S+|!ENV", "", (ROOT / "mkdocs.yml").read_text())
    navigation = yaml.safe_load(text)["nav"]
    assert [title for entry in navigation for title in entry] == ORDER
    found = {str(file.relative_to(DOCS)) for kind in ("*.md", "*.ipynb") for file in DOCS.rglob(kind)}
    assert sorted(pages_of(navigation)) == sorted(found)


def resolved(name: str):
    """The object with the given dotted name."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def test_every_public_name_is_in_the_reference():
    shown = [resolved(name) for name in REFERENCE]
    assert len(set(REFERENCE)) == len(REFERENCE)
    for name in yolos_jax.__all__:
        assert any(getattr(yolos_jax, name) is value for value in shown), name


def shown_functions(value) -> list:
    """A function, or the documented methods of a public class."""
    if inspect.isfunction(value):
        return [value]
    public = {getattr(yolos_jax, name) for name in yolos_jax.__all__ if name != "VARIANTS"}
    if not inspect.isclass(value) or value not in public:
        return []
    own = [inspect.unwrap(getattr(member, "__func__", member)) for member in vars(value).values()]
    shown = [member for member in own if inspect.isfunction(member) and member.__module__ == value.__module__]
    return [member for member in shown if not member.__name__.startswith("_") or member.__name__ == "__call__"]


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_explains_arguments_and_errors(name):
    """Docstrings mention each argument that the conventions page does not explain, and each exception."""
    value = resolved(name)
    if not inspect.isclass(value) and not inspect.isfunction(value):
        return  # a constant
    own = inspect.getdoc(value) if not dataclasses.is_dataclass(value) else value.__doc__
    assert own and not own.startswith(f"{value.__name__}(")
    common = {*re.findall(r"`(\w+)`", (DOCS / "api" / "index.md").read_text())}
    for function in shown_functions(value):
        text = f"{inspect.getdoc(function)}"
        words = {*re.findall(r"\w+", text)} | common
        lacking = set(inspect.signature(function).parameters) - {"self", "cls"} - words
        assert not lacking, function.__qualname__
        raised = {*re.findall(r"\braise (InputError|UnreadableImage)\b", inspect.getsource(function))}
        assert raised <= words, function.__qualname__
