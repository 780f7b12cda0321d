"""The policy: every permission, who holds it by role, and how far it reaches.

This table is the one place that decides. Routes, pages and commands name a permission of it;
keys may be given single permissions; people have roles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

Role = Literal["scraper", "investigator", "supervisor", "auditor", "administrator"]
ROLES: Final[tuple[Role, ...]] = (
    "scraper",
    "investigator",
    "supervisor",
    "auditor",
    "administrator",
)

Reach = Literal["own_agency", "shared", "installation"]
"""``own_agency``: cases of the holder's agency and what hangs on them; ``shared``: ads, which
every agency sees; ``installation``: what belongs to nobody in particular."""


@dataclass(frozen=True, slots=True)
class Permission:
    """``about`` says in a line what it allows, for people who give it to others.

    ``everywhere``: it touches what all agencies rely on, so only callers who work for all agencies
    hold it; with the same role in one agency it is worth nothing.
    """

    roles: tuple[Role, ...]
    reach: Reach
    about: str
    everywhere: bool = False


_CASE_WORK: Final[tuple[Role, ...]] = ("investigator", "supervisor")

PERMISSIONS: Final[Mapping[str, Permission]] = {
    "ads:read": Permission(("scraper", *_CASE_WORK), "shared", "Read ads."),
    "ads:write": Permission(("scraper",), "shared", "Send ads and their pictures."),
    "ads:delete": Permission(("administrator",), "shared", "Forget ads.", everywhere=True),
    "jobs:read": Permission(
        ("scraper", *_CASE_WORK, "administrator"), "own_agency", "See how far jobs are."
    ),
    "cases:read": Permission(_CASE_WORK, "own_agency", "Read cases."),
    "cases:write": Permission(_CASE_WORK, "own_agency", "Make and change cases, enrol photos."),
    "cases:delete": Permission(_CASE_WORK, "own_agency", "Forget cases and photos."),
    "images:read": Permission(_CASE_WORK, "own_agency", "See pictures and faces."),
    "search": Permission(_CASE_WORK, "own_agency", "Search the ads for a case."),
    "scores:read": Permission(_CASE_WORK, "own_agency", "See candidates with their scores."),
    "candidates:judge": Permission(_CASE_WORK, "own_agency", "Judge candidates."),
    "alerts:read": Permission(_CASE_WORK, "own_agency", "Read alerts."),
    "approvals:ask": Permission(_CASE_WORK, "own_agency", "Ask for a search to be approved."),
    "approvals:decide": Permission(("supervisor",), "own_agency", "Approve or refuse searches."),
    "holds:write": Permission(("supervisor",), "own_agency", "Set and lift legal holds."),
    "links:ask": Permission(_CASE_WORK, "own_agency", "Ask another agency about a shared lead."),
    "links:answer": Permission(("supervisor",), "own_agency", "Answer such questions."),
    "images:flag": Permission(_CASE_WORK, "own_agency", "Have a picture withheld from everybody."),
    "withheld:settle": Permission(
        ("supervisor",), "installation", "Deal with pictures that are withheld."
    ),
    "accounts:write": Permission(
        ("administrator",), "installation", "Make agencies, people and keys; end their sessions."
    ),
    "generations:write": Permission(
        ("administrator",), "installation", "Change the model that is in use.", everywhere=True
    ),
    "webhooks:write": Permission(("administrator",), "own_agency", "Set where alerts are sent."),
    "hashes:write": Permission(
        ("administrator",), "installation", "Load lists of hashes.", everywhere=True
    ),
    "audit:read": Permission(("auditor",), "installation", "Read and verify the audit log."),
    "reports:read": Permission(
        ("supervisor", "auditor", "administrator"), "installation", "Read transparency reports."
    ),
}

ALL_SCOPES: Final = frozenset(PERMISSIONS)


def scopes_of(roles: Iterable[str]) -> frozenset[str]:
    """Every permission that one of the roles holds."""
    held = set(roles)
    return frozenset(name for name, rule in PERMISSIONS.items() if held & set(rule.roles))
