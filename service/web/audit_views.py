"""What the page of the audit log shows. Knows no HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from indexer.audit import heads, reading, stamps
from indexer.audit.heads import Head
from indexer.audit.reading import Record, Wanted
from indexer.audit.stamps import Stamp
from indexer.workspace import Workspace
from models.errors import HomewardError


@dataclass(frozen=True, slots=True)
class RecordView:
    """One record, and its details as pairs of text."""

    record: Record
    details: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class AuditView:
    """One page. ``fit``: as in ``AuditPage``; ``contradicted``: a noted head that the log does not
    have; ``noted``: whether there is a file of heads; ``unreadable``: whether it cannot be
    read."""

    items: tuple[RecordView, ...]
    next_cursor: str | None
    fit: bool | None
    seq: int
    hash: str
    noted: bool
    contradicted: Head | None
    unreadable: bool
    stamp: Stamp | None


@dataclass(frozen=True, slots=True)
class Asked:
    """The filters as they were typed."""

    case_id: str = ""
    actor: str = ""
    action: str = ""
    since: str = ""
    until: str = ""

    def wanted(self, agency: str | None) -> tuple[Wanted, bool]:
        """What is asked for, and whether a time was left out because it is none."""
        since, until = _moment(self.since), _moment(self.until)
        bad = bool(self.since and since is None) or bool(self.until and until is None)
        return (
            Wanted(
                case_id=self.case_id or None,
                actor=self.actor or None,
                action=self.action or None,
                since=since,
                until=until,
                agency=agency,
            ),
            bad,
        )


def audit_page(ws: Workspace, wanted: Wanted, cursor: str | None) -> AuditView:
    """One page of the log. Raises InvalidCursor."""
    page = reading.list_records(ws.catalog, wanted, cursor=cursor)
    seq, digest = reading.head(ws.catalog)
    path = ws.options.audit_heads
    try:
        contradicted, unreadable = heads.contradicts(ws), False
    except HomewardError:
        contradicted, unreadable = None, True
    latest = stamps.stamps(ws.catalog, 1)
    return AuditView(
        items=tuple(RecordView(item, _details(item)) for item in page.items),
        next_cursor=page.next_cursor,
        fit=page.fit,
        seq=seq,
        hash=digest,
        noted=path is not None and path.exists(),
        contradicted=contradicted,
        unreadable=unreadable,
        stamp=latest[0] if latest else None,
    )


def _details(item: Record) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name.replace("_", " "), ", ".join(value) if isinstance(value, list) else str(value))
        for name, value in sorted(item.details.items())
        if value is not None and value != []
    )


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
