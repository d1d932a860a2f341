"""A hook of mkdocs: links to files outside docs/ lead to the repository, or become plain text without its address."""

import re
from typing import Any

LINK = re.compile(r"\[([^\]]+)\]\(\.\./([^)\s#]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """The text of a page with such links replaced."""
    depth = page.file.src_uri.count("/")
    address = config.repo_url

    def replaced(link: re.Match) -> str:
        text, path, anchor = link.groups()
        if depth:  # `../` stays inside docs/ there
            return link.group()
        return f"[{text}]({address.rstrip('/')}/blob/main/{path}{anchor or ''})" if address else f"{text} (`{path}`)"

    return LINK.sub(replaced, markdown)
