"""Agencies: whose cases are whose. The unnamed one is there from the start and always in use."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import delete, select

from indexer.agencies import add_agency
from indexer.audit.chain import Detail, record
from indexer.catalog import Catalog
from indexer.catalog.account_tables import Agency, User
from indexer.catalog.tables import WebSession
from indexer.times import utc_now
from service.accounts.access import Forbidden
from service.accounts.errors import AgencyInvalid, AgencyNotFound, AgencyTaken
from service.accounts.principal import Principal

MAX_NAME: Final = 100
MAX_TITLE: Final = 200
ALL: Final = "*"
"""What stands for all agencies where one is chosen from a list; no agency is called so."""


@dataclass(frozen=True, slots=True)
class AgencyRecord:
    """An agency by its name; ``title`` is how it calls itself."""

    name: str
    title: str
    created_at: datetime
    retired_at: datetime | None


def create(catalog: Catalog, principal: Principal, name: str, title: str = "") -> AgencyRecord:
    """Make an agency. Raises AgencyTaken, AgencyInvalid, Forbidden."""
    _require_all(principal)
    name, title = name.strip(), title.strip()
    if (
        name in ("", ALL)
        or len(name) > MAX_NAME
        or len(title) > MAX_TITLE
        or _unprintable(name + title)
    ):
        raise AgencyInvalid(
            f"The name of an agency has 1 to {MAX_NAME} characters, its title up to {MAX_TITLE}.",
            remedy="Choose a short name, such as the agency's ORI.",
        )
    with catalog.write() as session:
        if session.get(Agency, name) is not None:
            raise AgencyTaken(name)
        return _record(add_agency(session, name, title))


def change(
    catalog: Catalog,
    principal: Principal,
    name: str,
    *,
    title: str | None = None,
    retired: bool | None = None,
) -> AgencyRecord:
    """Change how an agency calls itself, retire it or take it back into use.

    Nobody of a retired agency is let in any more, people and keys alike; its cases stay. Raises
    AgencyNotFound, AgencyInvalid (also for retiring the unnamed one), Forbidden.
    """
    _require_all(principal)
    if title is not None and (len(title.strip()) > MAX_TITLE or _unprintable(title)):
        raise AgencyInvalid(f"The title has up to {MAX_TITLE} characters.", remedy="Shorten it.")
    if retired and not name:
        raise AgencyInvalid("The unnamed agency stays in use.", remedy="Name another one.")
    with catalog.write() as session:
        row = session.get(Agency, name)
        if row is None:
            raise AgencyNotFound(name)
        if title is not None and title.strip() != row.title:
            row.title = title.strip()
            details: dict[str, Detail] = {"fields": ["title"]}
            record(session, "agency.change", subject=("agency", name), details=details)
        if retired is not None and retired != (row.retired_at is not None):
            row.retired_at = utc_now() if retired else None
            if retired:
                people = select(User.user_id).where(User.agency == name)
                session.execute(delete(WebSession).where(WebSession.user_id.in_(people)))
            verb = "agency.retire" if retired else "agency.reopen"
            record(session, verb, subject=("agency", name))
        return _record(row)


def all_of(catalog: Catalog, principal: Principal) -> tuple[AgencyRecord, ...]:
    """The agencies whose people the caller may manage, by name."""
    query = select(Agency).order_by(Agency.name)
    if principal.agency is not None:
        query = query.where(Agency.name == principal.agency)
    with catalog.read() as session:
        return tuple(_record(row) for row in session.scalars(query))


def _require_all(principal: Principal) -> None:
    if principal.agency is not None:
        raise Forbidden(
            "Agencies are made and retired by administrators of the whole installation.",
            remedy="Ask one of them.",
        )


def _unprintable(text: str) -> bool:
    return re.search(r"[\x00-\x1f\x7f\ud800-\udfff\u202a-\u202e\u2066-\u2069]", text) is not None


def _record(row: Agency) -> AgencyRecord:
    return AgencyRecord(row.name, row.title, row.created_at, row.retired_at)
