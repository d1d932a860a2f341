"""Describes fields in the API reference by their comments in the source or their help in `setting(...)`.

mkdocs.yml loads this file; the package does not use it.
"""

import ast
import io
import re
import tokenize
from typing import Any

import griffe

SEVERAL = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +\S.*)*)", re.MULTILINE)


class Fields(griffe.Extension):
    """Documents the fields of classes, and splits entries that describe several arguments at once."""

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        _split_arguments(func.docstring)

    def on_class_instance(self, *, cls: griffe.Class, **_: Any) -> None:
        _split_arguments(cls.docstring)

    def on_attribute_instance(self, *, node: Any, attr: griffe.Attribute, **_: Any) -> None:
        if attr.docstring is not None or not isinstance(attr.parent, griffe.Class) or attr.lineno is None:
            return
        meaning = _meaning(node) if isinstance(node, ast.AST) else ""
        text = meaning or _comment(attr)
        if meaning and isinstance(attr.value, griffe.ExprCall):
            attr.value = attr.value.arguments[0]  # the default value, so that signatures show it
        if text:
            attr.docstring = griffe.Docstring(text, lineno=attr.lineno, parent=attr)


def _split_arguments(docstring: griffe.Docstring | None) -> None:
    if docstring is not None:
        head, args, rest = docstring.value.partition("Args:\n")
        docstring.value = head + args + SEVERAL.sub(_one_each, rest)


def _one_each(found: re.Match) -> str:
    """Splits `a, b: text` into one line for `a` and one for `b`."""
    indent, names, text = found.groups()
    return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))


def _meaning(node: ast.AST) -> str:
    """The description of a field that is declared with `setting(default, meaning)`."""
    call = getattr(node, "value", None)
    is_setting = isinstance(call, ast.Call) and getattr(call.func, "id", "") == "setting" and len(call.args) == 2
    return str(ast.literal_eval(call.args[1])) if is_setting else ""


def _comment(attr: griffe.Attribute) -> str:
    """The comment at the end of a field's line, or else the comment block directly above it."""
    lines = attr.lines_collection[attr.filepath]
    assert attr.lineno is not None and attr.endlineno is not None
    found = _comments("\n".join(lines[attr.lineno - 1 : attr.endlineno]))
    above = attr.lineno - 2
    while not found and above >= 0 and lines[above].strip().startswith("#"):
        first = above
        while lines[first - 1].strip().startswith("#"):
            first -= 1
        found = [line.strip() for line in lines[first : above + 1]]
    parts = [part.strip() for line in found for part in line.split("#")]
    return " ".join(part for part in parts if part and not part.startswith(("type:", "noqa")))


def _comments(source: str) -> list[str]:
    try:
        tokens = [*tokenize.generate_tokens(io.StringIO(source).readline)]
    except (tokenize.TokenError, IndentationError):
        return []
    return [token.string for token in tokens if token.type == tokenize.COMMENT]
