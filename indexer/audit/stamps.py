"""Time stamps over heads of the chain (RFC 3161): proof by another that a record was there then.

The stamp is over the text ``SEQ:HASH``, so that stock tools can check it. A stamp is asked for as a
job, which is tried again while the authority is away; until it answers the stamp is ``pending``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from rfc3161_client import (
    HashAlgorithm,
    TimeStampRequest,
    TimestampRequestBuilder,
    TimeStampResponse,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from indexer import queue
from indexer.audit.chain import newest, record
from indexer.audit.heads import STAMPED, Head
from indexer.catalog import Catalog
from indexer.catalog.audit_tables import AuditStamp
from indexer.catalog.tables import Job
from indexer.errors import StampInvalid
from indexer.files import storage_errors
from indexer.ids import new_id
from indexer.times import utc_now

if TYPE_CHECKING:
    from indexer.workspace import Workspace

EVERY: Final = timedelta(days=1)
GRANTED: Final = (0, 1)
"""``granted`` and ``granted with modifications`` (RFC 3161, section 2.4.2)."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """A stamp without its token. ``state`` is ``pending`` or ``done``."""

    stamp_id: str
    seq: int
    hash: str
    state: str
    asked_at: datetime
    stamped_at: datetime | None


def ask(session: Session) -> str | None:
    """Queue a stamp over the head as it is, in the caller's transaction; its id. ``None`` where
    the log is empty, or the head has a stamp or waits for one."""
    seq, digest = newest(session)
    if seq == 0 or session.scalar(select(AuditStamp.stamp_id).where(AuditStamp.hash == digest)):
        return None
    stamp_id = new_id()
    session.add(
        AuditStamp(stamp_id=stamp_id, seq=seq, hash=digest, state="pending", asked_at=utc_now())
    )
    session.flush()
    queue.enqueue(session, "stamp_head", stamp_id)
    record(session, "stamp.ask", subject=("stamp", stamp_id), details={"head": seq})
    return stamp_id


def keep_asking(ws: Workspace) -> None:
    """Upkeep: ask for a stamp once a day, and again for those whose jobs were given up."""
    if not ws.options.stamps:
        return
    now = utc_now()
    with ws.catalog.read() as session:
        last = session.scalar(select(func.max(AuditStamp.asked_at)))
        if last is not None and last.tzinfo is not None and now - last < EVERY:
            return
        if newest(session)[0] == 0:
            return
    with ws.catalog.write() as session:
        last = session.scalar(select(func.max(AuditStamp.asked_at)))
        if last is not None and now - last < EVERY:
            return
        at_work = select(Job.subject_id).where(
            Job.kind == "stamp_head", Job.state.in_(("queued", "running"))
        )
        given_up = session.scalars(
            select(AuditStamp.stamp_id).where(
                AuditStamp.state == "pending", AuditStamp.stamp_id.not_in(at_work)
            )
        ).all()
        for stamp_id in given_up:
            queue.enqueue(session, "stamp_head", stamp_id)
        ask(session)


def stamp_of(catalog: Catalog, stamp_id: str) -> Stamp | None:
    """One stamp."""
    with catalog.read() as session:
        row = session.get(AuditStamp, stamp_id)
        return None if row is None else _stamp(row)


def stamps(catalog: Catalog, limit: int = 20) -> list[Stamp]:
    """The latest stamps, newest first."""
    with catalog.read() as session:
        rows = session.scalars(select(AuditStamp).order_by(AuditStamp.stamp_id.desc()).limit(limit))
        return [_stamp(row) for row in rows]


def _stamp(row: AuditStamp) -> Stamp:
    return Stamp(row.stamp_id, row.seq, row.hash, row.state, row.asked_at, row.stamped_at)


def message(seq: int, digest: str) -> bytes:
    """What is stamped."""
    return f"{seq}:{digest}".encode()


def request_for(stamp: Stamp) -> TimeStampRequest:
    """The request to send, with a nonce of its own."""
    return (
        TimestampRequestBuilder()
        .data(message(stamp.seq, stamp.hash))
        .hash_algorithm(HashAlgorithm.SHA256)
        .cert_request(cert_request=True)
        .build()
    )


def certificates(path: Path | None) -> list[x509.Certificate]:
    """The certificates of authorities in a PEM file. Raises :class:`StampInvalid` for a file that
    holds none, and the StorageError tree."""
    if path is None:
        return []
    with storage_errors(str(path)):
        data = path.read_bytes()
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise StampInvalid(f"{path.name} holds no certificates in PEM.") from None


def check(
    answer: bytes,
    seq: int,
    digest: str,
    roots: Sequence[x509.Certificate],
    request: TimeStampRequest | None = None,
) -> TimeStampResponse:
    """The answer of an authority, which has to be a stamp over this head, and over this request
    where that is given. Without ``roots`` its signature is not checked.

    Raises :class:`StampInvalid`.
    """
    try:
        response = decode_timestamp_response(answer)
        if response.status not in GRANTED:
            raise StampInvalid(f"The authority refused (status {response.status}).")
        imprint = response.tst_info.message_imprint.message
    except ValueError:
        raise StampInvalid("What the authority answered is no time stamp.") from None
    expected = hashlib.sha256(message(seq, digest)).digest()
    if imprint != expected:
        raise StampInvalid("The stamp is over something else.")
    if request is not None and response.tst_info.nonce != request.nonce:
        raise StampInvalid("The stamp answers another request.")
    if roots:
        builder = VerifierBuilder(roots=list(roots))
        try:
            builder.build().verify(response, expected)
        except (VerificationError, ValueError) as error:
            raise StampInvalid(f"The signature of the stamp does not hold: {error}") from None
    return response


def store(catalog: Catalog, stamp_id: str, answer: bytes, stamped_at: datetime) -> None:
    """Keep the answer of the authority with its stamp."""
    with catalog.write() as session:
        row = session.get(AuditStamp, stamp_id)
        if row is not None and row.state == "pending":
            row.state, row.token, row.stamped_at = "done", answer, stamped_at
            record(session, "stamp.keep", subject=("stamp", stamp_id), details={"head": row.seq})


@dataclass(frozen=True, slots=True)
class Checked:
    """``heads`` of the stamps that hold; ``bad``: what is wrong with others; ``signed``: whether
    signatures were checked."""

    heads: tuple[Head, ...]
    pending: int
    bad: tuple[str, ...]
    signed: bool


def check_all(catalog: Catalog, roots: Sequence[x509.Certificate]) -> Checked:
    """Check every stamp; those that hold are heads to compare the log with."""
    with catalog.read() as session:
        rows = session.scalars(select(AuditStamp).order_by(AuditStamp.stamp_id)).all()
    found, bad = [], []
    for row in rows:
        if row.state != "done":
            continue
        try:
            check(row.token or b"", row.seq, row.hash, roots)
        except StampInvalid as error:
            bad.append(f"stamp {row.stamp_id} of record {row.seq}: {error.detail}")
        else:
            found.append(Head(row.seq, row.hash, row.stamped_at, STAMPED))
    pending = sum(row.state == "pending" for row in rows)
    return Checked(tuple(found), pending, tuple(bad), bool(roots))
