"""The acts that docs/audit.md lists are those that the code records, no more and no fewer."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from service.audit.routes import ACTIONS
from tests.house import repository
from tests.house.repository import ROOT, shown

NAME = re.compile(r"[a-z_]+\.[a-z_]+")
RECORDERS = {"record", "record_many", "record_act", "record_read", "entry_of", "_record"}
"""Functions whose second argument is the name of an act."""
TABLES = {"FORGOTTEN", "REFUSED", "MANY", "ACTS"}
"""Constants that hold such names."""


def _words(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        word = inner.value if isinstance(inner, ast.Constant) else None
        if isinstance(word, str) and NAME.fullmatch(word):
            yield word


def _assigned(tree: ast.Module, name: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name for target in node.targets
        ):
            yield from _words(node.value)


def _recorded() -> Iterator[tuple[str, str]]:
    """Every act that is named in the code, with its module."""
    for path in repository.modules():
        where = shown(path)
        if not where.startswith(("indexer/", "service/")):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            found: ast.AST | None = None
            if isinstance(node, ast.Call) and len(node.args) > 1:
                name = node.func.attr if isinstance(node.func, ast.Attribute) else None
                name = node.func.id if isinstance(node.func, ast.Name) else name
                found = node.args[1] if name in RECORDERS else None
                if isinstance(found, ast.Name):
                    yield from ((word, where) for word in _assigned(tree, found.id))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found = node.value if node.target.id in TABLES else None
            if found is not None:
                yield from ((word, where) for word in _words(found))


def _documented() -> set[str]:
    text = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    table = text.partition("<!-- acts: begin")[2].partition("<!-- acts: end")[0]
    return {
        name
        for row in re.findall(r"^\| (`.+?) \|", table, flags=re.M)
        for name in re.findall(r"`([a-z_.]+)`", row)
    }


def test_every_act_is_documented_and_recorded() -> None:
    recorded = dict(_recorded())
    known = {"case.create", "ad.forget", "purge.other", "access.refuse_many", "audit.verify"}
    assert known <= set(recorded)
    names = set(recorded) | set(ACTIONS.values())
    documented = _documented()
    lacking = {name: recorded.get(name, "service/audit/routes.py") for name in names - documented}
    assert not lacking, f"Add these acts to the table in docs/audit.md: {lacking}"
    assert documented - names == set(), "docs/audit.md lists acts that nothing records"
    assert all(len(name) <= 60 for name in names)
