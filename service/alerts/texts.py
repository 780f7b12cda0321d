"""The words in which alerts leave the service; nothing in them speaks of a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

TEXTS: Final[Mapping[str, str]] = {
    "mail.subject.one": "Homeward: a new candidate to review",
    "mail.subject.other": "Homeward: {n} new candidates to review",
    "mail.lead.one": "There is a new candidate to review.",
    "mail.lead.other": "There are {n} new candidates to review.",
    "mail.link": "Open the case: {address}",
    "mail.no_link": "Sign in to Homeward to see it.",
    "mail.subject.withheld": "Homeward: a picture is withheld",
    "mail.subject.overdue": "Homeward: a withheld picture is overdue",
    "mail.withheld": "A picture is withheld (entry {id}).",
    "mail.overdue": "A withheld picture was not settled in time (entry {id}).",
    "mail.due": "To be settled by {moment}.",
    "mail.withheld_link": "Open the list: {address}",
    "mail.why": "You get this mail because your address is on the list of a case. Ask the case's "
    "owner to take it off if you should not get it.",
}


def text(key: str, **values: object) -> str:
    """The text of ``key`` with its values filled in; an unknown key is an error."""
    found = TEXTS[key]
    return found.format(**values) if values else found


def counted(key: str, n: int) -> str:
    """The singular or plural of ``key`` for ``n``."""
    return text(f"{key}.{'one' if n == 1 else 'other'}", n=f"{n:,}")
