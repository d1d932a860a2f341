"""An mkdocs hook for links that mkdocs does not resolve: links to files outside docs/ and all links in notebooks.

Links to files outside docs/ point to the repository, or become plain text if its URL is not known.
"""

import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"\[([^\]]+)\]\(\.\./([^)\s#]+)(#[^)\s]*)?\)")
ANCHOR = re.compile(r'<a href="([^":#]+\.\w+)(#[^"]*)?"[^>]*>(.*?)</a>', re.DOTALL)


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Replaces links to files outside docs/ in the text of a page."""
    if "/" in page.file.src_uri:  # `../` stays inside docs/ there
        return markdown

    def replaced(link: re.Match) -> str:
        text, path, anchor = link.groups()
        address = address_of(path + (anchor or ""), config)
        return f"[{text}]({address})" if address else f"{text} (`{path}`)"

    return LINK.sub(replaced, markdown)


def on_post_page(output: str, *, page: Any, config: Any) -> str:
    """Rewrites the links on the page of a notebook, which mkdocs leaves unchanged."""
    if not page.file.src_uri.endswith(".ipynb"):
        return output
    docs = Path(config.docs_dir)

    def replaced(link: re.Match) -> str:
        path, anchor, text = link.group(1), link.group(2) or "", link.group(3)
        if Path(path).suffix in (".md", ".ipynb") and (docs / path).is_file() and not path.startswith(".."):
            return f'<a href="../{Path(path).stem}/{anchor}">{text}</a>'
        if path.startswith("../") and (docs / path).is_file():
            address = address_of(path.removeprefix("../") + anchor, config)
            return f'<a href="{address}">{text}</a>' if address else text
        return link.group()

    return ANCHOR.sub(replaced, output)


def address_of(path: str, config: Any) -> str:
    """The URL of a file in the repository, or "" if the URL of the repository is not known."""
    return f"{config.repo_url.rstrip('/')}/blob/main/{path}" if config.repo_url else ""
