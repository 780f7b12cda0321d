"""Which words no user may read, and where users read.

A score never says that two faces belong to one person, and no text may suggest that it does.
"""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path

FORBIDDEN = (
    "match",
    "matches",
    "matched",
    "matching",
    "hit",
    "hits",
    "identified",
    "positive identification",
    "same person found",
)
ALLOWED = ("false match rate", "false match rates")
"""Terms of the field that hold a forbidden word; every one is measured, none is a claim."""

_ALLOWED = re.compile("|".join(re.escape(term).replace("\\ ", r"\s+") for term in ALLOWED), re.I)
_FORBIDDEN = re.compile(
    r"\b(" + "|".join(re.escape(term).replace("\\ ", r"\s+") for term in FORBIDDEN) + r")\b", re.I
)


def offences(text: str) -> list[str]:
    """The forbidden words in ``text``, each with what stands around it."""
    rest = _ALLOWED.sub(lambda found: "." * len(found.group()), text)
    return [
        " ".join(text[max(0, found.start() - 40) : found.end() + 40].split())
        for found in _FORBIDDEN.finditer(rest)
    ]


def markdown_prose(text: str) -> str:
    """What a reader of a Markdown file reads; addresses are left out."""
    return re.sub(r"\]\([^)]*\)", "]", re.sub(r"<!--.*?-->", "", text, flags=re.S))


class _Visible(HTMLParser):
    _ATTRIBUTES = ("title", "alt", "placeholder", "aria-label", "value", "content")

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.parts += [value for name, value in attrs if name in self._ATTRIBUTES and value]


def template_prose(source: str) -> str:
    """What a template shows: its text, the attributes people see, and literals in expressions."""
    without_comments = re.sub(r"\{#.*?#\}", " ", source, flags=re.S)
    literals = re.findall(r"\{[{%].*?[}%]\}", without_comments, flags=re.S)
    quoted = [part for code in literals for part in re.findall(r"'([^']* [^']*)'", code)]
    parser = _Visible()
    parser.feed(re.sub(r"\{[{%].*?[}%]\}", " ", without_comments, flags=re.S))
    return html.unescape("\n".join([*parser.parts, *quoted]))


def _is_docstring(node: ast.AST, tree: dict[ast.AST, ast.AST]) -> bool:
    return isinstance(tree.get(node), ast.Expr)


def code_prose(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each literal with a space in it: messages, remedies, labels, help.

    Docstrings are left out (the ones that users read are scanned where they are shown).
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if " " in node.value.strip() and not _is_docstring(node, parents):
            yield node.lineno, node.value


def flattened(value: object) -> Iterable[str]:
    """Every text in a JSON-like value that is meant for people: titles and descriptions."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in {"title", "summary", "description", "detail"} and isinstance(item, str):
                yield item
            else:
                yield from flattened(item)
    elif isinstance(value, list):
        for item in value:
            yield from flattened(item)
