"""Shell commands and Python snippets in the documentation, by page."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from reference_pack import ROOT

DOCS = ROOT / "docs"
SHELL, PYTHON, OTHERS = "sh", "python", {"text", "yaml"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:yolos-[a-z-]+|python|pip|make)\s[^`]+)`")
MODELS = "yolos-tiny", "yolos-small", "yolos-base"


class Shown(NamedTuple):
    """A shell command, on one line and without its comment, or a whole Python snippet."""

    page: str
    line: int
    kind: str
    text: str
    inline: bool = False  # whether the command is within a sentence, in backticks

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def pages() -> dict[str, str]:
    """The text of every page by its path; for a notebook, the text of its Markdown cells."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
    texts = {str(file.relative_to(ROOT)): file.read_text() for file in found}
    for file in sorted(DOCS.glob("*.ipynb")):
        cells = json.loads(file.read_text())["cells"]
        text = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        texts[str(file.relative_to(ROOT))] = "\n\n".join(text)
    return texts


def shown_on(page: str, text: str) -> list[Shown]:
    """All commands and snippets on a page, in order."""
    found = [*_blocks(page, text), *_inline(page, text)]
    return sorted(found, key=lambda shown: shown.line)


def _blocks(page: str, text: str) -> Iterator[Shown]:
    for match in FENCE.finditer(text):
        language, content = match.groups()
        line = text.count("\n", 0, match.start(2)) + 1
        if language == PYTHON:
            yield Shown(page, line, PYTHON, content)
        elif language == SHELL:
            yield from _commands(page, line, content)
        else:
            assert language in OTHERS, f"{page}:{line}: specify the block's language, such as {SHELL} or {PYTHON}"


def _commands(page: str, first: int, block: str) -> Iterator[Shown]:
    pending, start = "", first
    for number, line in enumerate(block.splitlines(), first):
        start = start if pending else number
        pending += re.sub(r"(^|\s+)#.*$", "", line)
        if pending.endswith("\\"):
            pending = pending[:-1]
        elif pending.strip():
            yield Shown(page, start, SHELL, " ".join(pending.split()))
            pending = ""


def _inline(page: str, text: str) -> Iterator[Shown]:
    prose = FENCE.sub(lambda match: "\n" * match.group(0).count("\n"), text)
    for match in INLINE.finditer(prose):
        command = " ".join(match.group(1).split())
        if not command.startswith(MODELS):
            yield Shown(page, prose.count("\n", 0, match.start()) + 1, SHELL, command, inline=True)


def is_test(name: str) -> bool:
    """Whether there is a test with this name, such as `tests/test_docs.py::test_links_work`."""
    file, _, function = name.partition("::")
    return (ROOT / file).is_file() and f"\ndef {function}(" in Path(ROOT, file).read_text()
