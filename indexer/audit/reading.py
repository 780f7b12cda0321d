"""Looking into the audit log. Whoever reads it records that they did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, or_, select

from indexer.acting import note
from indexer.audit.chain import GENESIS, newest
from indexer.audit.verify import TABLE, fits_all
from indexer.catalog import Catalog
from indexer.catalog.tables import Case
from indexer.errors import InvalidCursor

FILTERS: Final = ("case_id", "actor", "action", "since", "until")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record, as its columns are; ``hash`` is that of the chain."""

    seq: int
    at: datetime
    action: str
    outcome: str
    channel: str
    actor_kind: str
    actor: str
    agency: str | None
    request_id: str | None
    subject_kind: str | None
    subject_id: str | None
    case_id: str | None
    purpose: str | None
    details: Mapping[str, Any]
    hash: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records are asked for; ``None`` stands for any. ``agency``: only those of its cases
    and of those who work for it."""

    case_id: str | None = None
    actor: str | None = None
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    agency: str | None = None


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Newest first. ``fit``: whether the records shown, with those between, follow from each
    other; ``None`` where some between them are left out."""

    items: tuple[Record, ...]
    next_cursor: str | None
    fit: bool | None


def list_records(
    catalog: Catalog, wanted: Wanted, *, limit: int = 50, cursor: str | None = None
) -> AuditPage:
    """Records, newest first. Raises :class:`InvalidCursor`."""
    conditions = _conditions(wanted)
    if cursor is not None:
        if not cursor.isdecimal() or len(cursor) > 18:
            raise InvalidCursor
        conditions.append(TABLE.c.seq < int(cursor))
    query = select(TABLE).where(*conditions).order_by(TABLE.c.seq.desc()).limit(limit + 1)
    with catalog.read() as session:
        rows = [dict(row._mapping) for row in session.execute(query)]
        shown = rows[:limit]
        fit = None
        if shown and wanted == Wanted():
            first = shown[-1]["seq"]
            before = session.scalar(select(TABLE.c.hash).where(TABLE.c.seq == first - 1))
            fit = fits_all(shown[::-1], GENESIS if first == 1 else before or "")
    items = tuple(Record(**row) for row in shown)
    note(
        records=len(items),
        newest=items[0].seq if items else None,
        oldest=items[-1].seq if items else None,
        filters=sorted(name for name in FILTERS if getattr(wanted, name) is not None),
    )
    return AuditPage(items, str(items[-1].seq) if len(rows) > limit else None, fit)


def head(catalog: Catalog) -> tuple[int, str]:
    """Number and hash of the last record."""
    with catalog.read() as session:
        return newest(session)


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    for name in ("case_id", "actor", "action"):
        value = getattr(wanted, name)
        if value is not None:
            found.append(TABLE.c[name] == value)
    if wanted.since is not None:
        found.append(TABLE.c.at >= wanted.since)
    if wanted.until is not None:
        found.append(TABLE.c.at < wanted.until)
    if wanted.agency is not None:
        own = select(Case.case_id).where(Case.agency == wanted.agency)
        found.append(or_(TABLE.c.agency == wanted.agency, TABLE.c.case_id.in_(own)))
    return found
