"""The rows of agencies, which people and keys hang on; a case may be the first to name one."""

from __future__ import annotations

from sqlalchemy.orm import Session

from indexer.acting import acting
from indexer.audit.chain import record
from indexer.catalog.account_tables import Agency
from indexer.times import utc_now


def add_agency(session: Session, name: str, title: str = "") -> Agency:
    """The row of a new agency, in the caller's transaction."""
    row = Agency(name=name, title=title, created_at=utc_now(), retired_at=None)
    session.add(row)
    session.flush()
    record(session, "agency.create", subject=("agency", name))
    return row


def ensure_agency(session: Session, name: str) -> None:
    """Make the agency that a case names, where there is none and whoever acts works for all."""
    if acting().agency is None and session.get(Agency, name) is None:
        add_agency(session, name)
