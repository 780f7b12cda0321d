"""Answers kept by Idempotency-Key, so that a request sent twice is answered twice and done once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, select

from indexer.catalog.tables import IdempotentResponse, Purge
from indexer.errors import IdempotencyConflict
from indexer.times import utc_now

if TYPE_CHECKING:
    from indexer.workspace import Workspace

KEPT_FOR = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """An answer as it was given."""

    status: int
    body: bytes
    media_type: str


def recall(ws: Workspace, owner: str, key: str, request_digest: str) -> StoredResponse | None:
    """The answer that was given to this very request, or ``None``.

    ``owner`` is who sent it (a key id): keys of different owners never meet. Raises
    :class:`IdempotencyConflict` where the key was used for another request.
    """
    with ws.catalog.read() as session:
        row = session.get(IdempotentResponse, (owner, key))
    if row is None or row.created_at < utc_now() - KEPT_FOR:
        return None
    if row.request_digest != request_digest:
        raise IdempotencyConflict(
            "This Idempotency-Key was used for another request.",
            remedy="Use a fresh key for each request, and the same only to repeat one.",
        )
    return StoredResponse(row.status, row.body, row.media_type)


def remember(
    ws: Workspace,
    owner: str,
    key: str,
    request_digest: str,
    status: int,
    body: bytes,
    *,
    media_type: str = "application/json",
    subject_id: str | None = None,
) -> None:
    """Keep an answer for a day. ``subject_id`` is the record it speaks of: forgotten with it, and
    not kept where that was forgotten already."""
    now = utc_now()
    with ws.catalog.write() as session:
        if session.scalar(
            select(Purge.purge_id)
            .where(Purge.subject_id == subject_id, Purge.kind.in_(("ad", "case", "photo")))
            .limit(1)
        ):
            return
        session.merge(
            IdempotentResponse(
                owner=owner,
                key=key,
                request_digest=request_digest,
                status=status,
                media_type=media_type,
                body=body,
                subject_id=subject_id,
                created_at=now,
            )
        )


def expire(ws: Workspace) -> None:
    """Delete the answers that are older than a day; they may hold what is personal."""
    late = IdempotentResponse.created_at < utc_now() - KEPT_FOR
    with ws.catalog.read() as session:
        if session.scalar(select(IdempotentResponse.key).where(late).limit(1)) is None:
            return
    with ws.catalog.write() as session:
        session.execute(delete(IdempotentResponse).where(late))
