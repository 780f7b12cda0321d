"""Every text of the pages: the one place to translate.

Templates escape what comes out of here, so a text may be filled with any value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from service.web.texts.pages import TEXTS
from service.web.texts.problems import PROBLEMS

MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def text(key: str, **values: object) -> str:
    """The text of ``key`` with its values filled in; an unknown key is an error."""
    found = TEXTS[key]
    return found.format(**values) if values else found


def counted(key: str, n: int, **values: object) -> str:
    """The singular or plural of ``key`` for ``n``."""
    return text(f"{key}.{'one' if n == 1 else 'other'}", n=f"{n:,}", **values)


def label(group: str, name: str) -> str:
    """The text of one value of a fixed list, such as a status; the bare name where none is."""
    return TEXTS.get(f"{group}.{name}", name.replace("_", " "))


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem as a page tells it."""

    title: str
    detail: str
    remedy: str


def problem(code: str, detail: str, remedy: str) -> Problem:
    """A problem in the words of the pages; where they have none, in those of the error."""
    known = PROBLEMS.get(code)
    if known is None:
        return Problem(code.replace("_", " ").capitalize(), detail, remedy)
    return Problem(known[0], known[1] or detail, known[2] or remedy)
