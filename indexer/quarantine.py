"""Lines of batches and files that could not be taken: kept as received, with the reason.

They hold what the sender wrote, which may be personal; they are kept for 30 days.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from indexer import audit
from indexer.batches import chunks
from indexer.catalog import Catalog
from indexer.catalog.sealed import plain_length
from indexer.catalog.tables import Quarantined
from indexer.errors import QuarantineItemNotFound
from indexer.times import utc_now

KEPT_FOR = timedelta(days=30)
MAX_ITEMS = 10_000
"""Beyond that the oldest go, so that a sender of rubbish cannot fill the disk with it."""
MAX_BYTES = 100_000_000
MAX_CONTENT_BYTES = 100_000
MAX_PLACE = 200
_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class BadItem:
    """One item that could not be taken. ``place`` says where it stood (``batch line 3``)."""

    place: str
    code: str
    detail: str
    content: bytes


MOST_NAMED = 200
"""Items that the record of their deletion names."""


@dataclass(frozen=True, slots=True)
class QuarantineRecord:
    """One item of the quarantine. ``size``: bytes kept of it, at most the first 100,000."""

    item_id: str
    at: datetime
    actor: str
    place: str
    code: str
    detail: str
    size: int


def add(catalog: Catalog, items: Sequence[BadItem], actor: str) -> None:
    """Keep bad items. The same item from the same place is kept once, with its latest time."""
    if not items:
        return
    now = utc_now()
    with catalog.write() as session:
        for item in items:
            content = item.content[:MAX_CONTENT_BYTES]
            session.merge(
                Quarantined(
                    item_id=_item_id(item, content),
                    at=now,
                    actor=actor[:100],
                    place=_place(item),
                    code=item.code,
                    detail=_storable(item.detail),
                    content=content,
                )
            )
        session.flush()
        _drop_oldest(session)


def _place(item: BadItem) -> str:
    return _storable(item.place)[-MAX_PLACE:]


def _storable(text: str) -> str:
    """Names of files may hold what no database takes."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def _item_id(item: BadItem, content: bytes) -> str:
    told = f"{_place(item)}\0{item.code}".encode()
    digest = hashlib.sha256(told + b"\0" + content).digest()
    return str(uuid.UUID(bytes=digest[:16]))


def _drop_oldest(session: Session) -> None:
    size = func.length(Quarantined.content)
    count, total = session.execute(select(func.count(), func.sum(size))).one()
    if count <= MAX_ITEMS and (total or 0) <= MAX_BYTES:
        return
    newest = select(Quarantined.item_id, size).order_by(
        Quarantined.at.desc(), Quarantined.item_id.desc()
    )
    gone, kept, used = [], 0, 0
    for item_id, bytes_of_it in session.execute(newest):
        kept, used = kept + 1, used + bytes_of_it
        if kept > MAX_ITEMS or used > MAX_BYTES:
            gone.append(item_id)
    _delete(session, gone)


@dataclass(slots=True)
class Naming:
    """The items that name what is to be forgotten, as ``names_it`` says of their content.

    :meth:`look` reads all that was not read yet, which takes its time: call it before the write
    lock is taken. :meth:`drop` reads what came since, and deletes in the caller's transaction.
    """

    names_it: Callable[[bytes], bool]
    _seen: set[str] = field(default_factory=set)
    _found: list[str] = field(default_factory=list)

    def look(self, session: Session) -> None:
        there = session.scalars(select(Quarantined.item_id)).all()
        for some in chunks((one for one in there if one not in self._seen), _AT_ONCE):
            rows = session.execute(
                select(Quarantined.item_id, Quarantined.content).where(
                    Quarantined.item_id.in_(some)
                )
            )
            self._found += [item_id for item_id, content in rows if self.names_it(content)]
            self._seen.update(some)

    def drop(self, session: Session) -> None:
        self.look(session)
        _delete(session, self._found)


def items(catalog: Catalog, limit: int = 1000) -> list[QuarantineRecord]:
    """The latest items, newest first, without their content."""
    columns = (
        *(Quarantined.item_id, Quarantined.at, Quarantined.actor, Quarantined.place),
        *(Quarantined.code, Quarantined.detail, func.length(Quarantined.content)),
    )
    order = (Quarantined.at.desc(), Quarantined.place, Quarantined.item_id)
    with catalog.read() as session:
        rows = session.execute(select(*columns).order_by(*order).limit(limit)).all()
    keyring = catalog.keyring
    return [
        QuarantineRecord(item_id, at, actor, place, code, detail, plain_length(size, keyring))
        for item_id, at, actor, place, code, detail, size in rows
    ]


def show(catalog: Catalog, item_id: str) -> tuple[QuarantineRecord, bytes]:
    """One item with its content as received. Raises :class:`QuarantineItemNotFound`."""
    with catalog.read() as session:
        row = session.get(Quarantined, item_id)
    if row is None:
        raise QuarantineItemNotFound(item_id)
    record = QuarantineRecord(
        item_id=row.item_id,
        at=row.at,
        actor=row.actor,
        place=row.place,
        code=row.code,
        detail=row.detail,
        size=len(row.content),
    )
    return record, row.content


def drop(catalog: Catalog, item_ids: Iterable[str] | None) -> int:
    """Delete these items for good, or all of them for ``None``; returns how many.

    Raises :class:`QuarantineItemNotFound` for one that is not there; then none is deleted.
    """
    with catalog.write() as session:
        if item_ids is None:
            ids = list(session.scalars(select(Quarantined.item_id)))
        else:
            ids = list(dict.fromkeys(item_ids))
            for item_id in ids:
                if session.get(Quarantined, item_id) is None:
                    raise QuarantineItemNotFound(item_id)
        _delete(session, ids)
        if ids:
            audit.record(
                session,
                "quarantine.drop",
                details={"items": len(ids), "ids": ids[:MOST_NAMED]},
            )
    if ids:
        catalog.scrub()
    return len(ids)


def expire(catalog: Catalog) -> int:
    """Delete what is older than 30 days; returns how many items."""
    late = select(Quarantined.item_id).where(Quarantined.at < utc_now() - KEPT_FOR)
    with catalog.read() as session:
        if not session.scalars(late.limit(1)).all():
            return 0
    with catalog.write() as session:
        ids = session.scalars(late).all()
        _delete(session, ids)
    return len(ids)


def _delete(session: Session, ids: Sequence[str]) -> None:
    for some in chunks(ids):
        session.execute(delete(Quarantined).where(Quarantined.item_id.in_(some)))
