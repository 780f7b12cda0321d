"""The chain: each record's hash covers the record and the hash of the one before it.

``hash = SHA-256(JCS(record))``, where the record is a JSON object with every column but ``hash``,
the time as RFC 3339 text and ``prev``, the hash of the record before it; JCS is the canonical form
of RFC 8785. Whoever edits, removes, inserts or re-orders a record has to change every later hash;
whoever cuts the end off is found by a head that is kept elsewhere.

Every write transaction of the catalog waits for the one before it, so that the chain needs no lock
of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import rfc8785
from sqlalchemy import String, insert, select
from sqlalchemy.orm import Session

from indexer.acting import Acting, acting
from indexer.catalog.audit_tables import AuditRecord
from indexer.times import rfc3339, to_utc_ms, utc_now

GENESIS: Final = "0" * 64
"""What the first record is chained to."""

_NEWEST: Final = "audit_newest"

_LENGTHS: Final = {
    column.name: column.type.length
    for column in AuditRecord.__table__.columns
    if isinstance(column.type, String) and column.type.length is not None
}

Detail = str | int | float | bool | None | list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One record before it has a place in the chain; the fields are its columns."""

    action: str
    outcome: str
    channel: str
    actor_kind: str
    actor: str
    agency: str | None = None
    request_id: str | None = None
    subject_kind: str | None = None
    subject_id: str | None = None
    case_id: str | None = None
    purpose: str | None = None
    details: Mapping[str, Detail] = field(default_factory=dict)


def entry_of(
    who: Acting,
    action: str,
    *,
    subject: tuple[str, str] | None = None,
    case_id: str | None = None,
    outcome: str = "done",
    details: Mapping[str, Detail] | None = None,
    purpose: str | None = None,
) -> Entry:
    """What ``who`` does, as a record to be; the rest as for :func:`record`."""
    return Entry(
        action=action,
        outcome=outcome,
        channel=who.channel,
        actor_kind=who.kind,
        actor=who.actor,
        agency=who.agency,
        request_id=who.request_id,
        subject_kind=subject[0] if subject else None,
        subject_id=subject[1] if subject else None,
        case_id=case_id,
        purpose=purpose if purpose is not None else who.purpose,
        details=dict(details or {}),
    )


def record(
    session: Session,
    action: str,
    *,
    subject: tuple[str, str] | None = None,
    case_id: str | None = None,
    outcome: str = "done",
    details: Mapping[str, Detail] | None = None,
    purpose: str | None = None,
) -> None:
    """Append a record of what is done in this very transaction, by whoever acts.

    ``action`` is ``<noun>.<verb>``, such as ``case.create``; ``subject`` its kind and id;
    ``outcome`` is ``done`` or the code of the error. ``details`` hold ids, names of fields,
    figures and words from fixed lists: never what a person wrote, never a name.
    """
    who = acting()
    made = entry_of(
        who,
        action,
        subject=subject,
        case_id=case_id,
        outcome=outcome,
        details=details,
        purpose=purpose,
    )
    append(session, [made])
    # Where the transaction fails the request is refused, and recorded as that.
    who.recorded = outcome


def record_many(
    session: Session,
    action: str,
    items: Sequence[tuple[tuple[str, str], Mapping[str, Detail]]],
) -> None:
    """Like :func:`record` for one act on many subjects, each with its details, in one statement."""
    if items:
        who = acting()
        append(session, [entry_of(who, action, subject=one, details=told) for one, told in items])
        who.recorded = "done"


def append(session: Session, entries: Sequence[Entry]) -> None:
    """Put records at the end of the chain, in the caller's write transaction."""
    # A session of the catalog is one transaction, and it has the lock of writers.
    seq, before = session.info.get(_NEWEST) or newest(session)
    rows = []
    now = to_utc_ms(utc_now())
    for entry in entries:
        seq += 1
        row: dict[str, Any] = {"seq": seq, "at": now}
        row |= {name: _fitted(name, getattr(entry, name)) for name in Entry.__slots__}
        row["details"] = dict(entry.details)
        before = digest(row, before)
        rows.append({**row, "hash": before})
    # A list, so that the statement is the same however many there are.
    session.connection().execute(insert(AuditRecord), rows)
    session.info[_NEWEST] = seq, before


def _fitted(name: str, value: Any) -> Any:
    """What a column takes: a text that is too long is cut, before it is hashed."""
    length = _LENGTHS.get(name)
    return value[:length] if length is not None and isinstance(value, str) else value


def newest(session: Session) -> tuple[int, str]:
    """Number and hash of the last record: the head of the chain; ``(0, GENESIS)`` if there is
    none."""
    row = session.execute(
        select(AuditRecord.seq, AuditRecord.hash).order_by(AuditRecord.seq.desc()).limit(1)
    ).one_or_none()
    return (0, GENESIS) if row is None else (row.seq, row.hash)


def digest(row: Mapping[str, Any], before: str) -> str:
    """The hash of a record, given its columns by name and the hash of the record before it."""
    return hashlib.sha256(canonical(row, before)).hexdigest()


def canonical(row: Mapping[str, Any], before: str) -> bytes:
    """The bytes that the hash is over."""
    at: datetime = row["at"]
    content = {**row, "at": rfc3339(at), "prev": before}
    content.pop("hash", None)
    return rfc8785.dumps(content)
