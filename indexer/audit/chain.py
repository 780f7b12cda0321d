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
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import rfc8785
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from indexer.acting import acting
from indexer.catalog.audit_tables import AuditRecord
from indexer.times import rfc3339, to_utc_ms, utc_now

GENESIS: Final = "0" * 64
"""What the first record is chained to."""

Detail = str | int | float | bool | None | list[str]


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
    newest = session.execute(
        select(AuditRecord.seq, AuditRecord.hash).order_by(AuditRecord.seq.desc()).limit(1)
    ).one_or_none()
    seq, before = (newest.seq + 1, newest.hash) if newest is not None else (1, GENESIS)
    row: dict[str, Any] = {
        "seq": seq,
        "at": to_utc_ms(utc_now()),
        "action": action,
        "outcome": outcome,
        "channel": who.channel,
        "actor_kind": who.kind,
        "actor": who.actor,
        "agency": who.agency,
        "request_id": who.request_id,
        "subject_kind": subject[0] if subject else None,
        "subject_id": subject[1] if subject else None,
        "case_id": case_id,
        "purpose": purpose if purpose is not None else who.purpose,
        "details": dict(details or {}),
    }
    session.execute(insert(AuditRecord).values(**row, hash=digest(row, before)))


def digest(row: Mapping[str, Any], before: str) -> str:
    """The hash of a record, given its columns by name and the hash of the record before it."""
    at: datetime = row["at"]
    content = {**row, "at": rfc3339(at), "prev": before}
    content.pop("hash", None)
    return hashlib.sha256(rfc8785.dumps(content)).hexdigest()
