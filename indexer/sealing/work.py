"""Everything stored, sealed with the newest data key: when encryption is turned on, and when the
data key is changed.

A work is a row of ``sealing_works``. It goes through the tables by primary key, then through the
originals that the catalog names, then through the segments, in small steps; each step of the
catalog is one transaction that also notes how far it is. So it may be killed anywhere and gone on
with by any process. What is written meanwhile is sealed with the newest key already
(``indexer.sealing.keys``); so one pass is enough, and at its end no row uses an older key.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON, LargeBinary, Table, Text, cast, select, tuple_, type_coerce, update
from sqlalchemy.orm import Session
from sqlalchemy.sql import ColumnElement

from indexer import removals
from indexer.audit.chain import record
from indexer.blobs import BlobStore
from indexer.catalog.schema import Base
from indexer.catalog.sealed import (
    CONTACT_MARK,
    Wire,
    contact_form,
    open_stored,
    row_key,
    sealed_by,
    sealed_columns,
    stored_form,
    wire_of,
)
from indexer.catalog.sealing_tables import DataKey, SealingWork
from indexer.catalog.tables import AdContact, CapturePage, Image, StagedImage
from indexer.compaction import clear_slack
from indexer.errors import BlobDamaged, BlobMissing, EncryptionOff, SealBroken, SealKeyMissing
from indexer.files import try_lock
from indexer.galleries.resealing import reseal
from indexer.sealing.keyring import Keyring
from indexer.sealing.keys import add_key, start_work
from indexer.sealing.outer import OuterKeys
from indexer.times import utc_now

if TYPE_CHECKING:
    from indexer.workspace import Workspace

_log = logging.getLogger(__name__)

ROWS_AT_ONCE = 200
FILES_AT_ONCE = 20
CONTACTS, ORIGINALS, SEGMENTS = "contacts", "originals", "segments"
_STEP_S = 1.0
"""How long upkeep works at it in one turn; other upkeep is done in between."""


@dataclass(frozen=True, slots=True)
class Going:
    """A work that goes on. ``part``: the table, or what else it is at; ``parts``: how many there
    are; ``done``: rows and files that were looked at."""

    work_id: str
    data_key_id: str
    part: str
    number: int
    parts: int
    after: str
    done: int
    started_at: datetime


def parts() -> list[str]:
    """The names of all parts in their order."""
    tables = [table.name for table in Base.metadata.sorted_tables if sealed_columns(table)]
    return [*tables, CONTACTS, ORIGINALS, SEGMENTS]


def going_on(session: Session) -> Going | None:
    """The work that goes on, if any."""
    row = session.scalars(select(SealingWork).where(SealingWork.finished_at.is_(None))).first()
    if row is None:
        return None
    names = parts()
    part = row.part or names[0]
    return Going(
        row.work_id,
        row.data_key_id,
        part,
        names.index(part) if part in names else 0,
        len(names),
        row.after,
        row.done,
        row.started_at,
    )


def keyring_of(ws: Workspace) -> Keyring:
    """The keyring of an encrypted folder. Raises :class:`EncryptionOff`."""
    if ws.keyring is None:
        raise EncryptionOff
    return ws.keyring


def rotate(ws: Workspace, outer: OuterKeys) -> str:
    """Make a new data key, which seals from now on, and note that all has to be sealed with it;
    returns its id. Raises :class:`EncryptionOff` and the StorageError tree."""
    keyring_of(ws)
    with ws.catalog.write() as session:
        key_id = add_key(session, outer, "seal")
        start_work(session, key_id, outer)
        record(session, "encryption.rotate", subject=("data_key", key_id))
    keyring_of(ws).refresh()
    return key_id


def keep(ws: Workspace) -> None:
    """Go on with the work for about a second, if there is one and no other process of this machine
    is at it."""
    if ws.keyring is None:
        return
    until = time.monotonic() + _STEP_S
    with_lock(ws, lambda: time.monotonic() < until)


def finish(ws: Workspace, report: Callable[[Going], None], pause_s: float = 0.2) -> None:
    """Go on until all is sealed, by this process or by another; ``report`` is told how far it is.

    Raises the StorageError tree.
    """
    while True:
        with ws.catalog.read() as session:
            going = going_on(session)
        if going is None:
            return
        report(going)
        if not with_lock(ws, _once()):
            time.sleep(pause_s)


def _once() -> Callable[[], bool]:
    turns = iter((True, False))
    return lambda: next(turns, False)


def with_lock(ws: Workspace, more: Callable[[], bool]) -> bool:
    """Do steps as long as ``more()`` says; false where another process of this machine does."""
    lock = try_lock(ws.locks_dir / "sealing.lock")
    if lock is None:
        return False
    with lock:
        while more() and step(ws):
            pass
    return True


def step(ws: Workspace) -> bool:
    """One small step; false where there is nothing to do. Raises the StorageError tree."""
    with ws.catalog.read() as session:
        going = going_on(session)
    if going is None:
        return False
    if going.part == CONTACTS:
        _step_contacts(ws, going)
    elif going.part == ORIGINALS:
        _step_originals(ws, going)
    elif going.part == SEGMENTS:
        _end(ws, going)
    else:
        _step_table(ws, going, Base.metadata.tables[going.part])
    return True


def _note(session: Session, going: Going, after: str | None, looked_at: int) -> None:
    """How far the work is, in the transaction that got it there; ``after=None``: the part is done.

    Nothing is noted where the work began anew meanwhile, or another machine was faster.
    """
    names = parts()
    values: dict[str, Any] = {"after": after, "done": SealingWork.done + looked_at}
    if after is None:
        values |= {"part": names[names.index(going.part) + 1], "after": ""}
    else:
        values |= {"part": going.part}
    session.execute(
        update(SealingWork)
        .where(
            SealingWork.work_id == going.work_id,
            SealingWork.data_key_id == going.data_key_id,
            SealingWork.part.in_([going.part, ""] if not going.number else [going.part]),
            SealingWork.after == going.after,
        )
        .values(**values)
    )


# --- tables ----------------------------------------------------------------------------------


def _raw(column: ColumnElement[Any], wire: Wire) -> ColumnElement[Any]:
    """A sealed column as it is stored."""
    if wire == "json":
        return cast(column, Text)
    return type_coerce(column, LargeBinary() if wire == "bytes" else Text())


def _stored(value: str | bytes, wire: Wire, session: Session) -> ColumnElement[Any]:
    """A stored form as a statement takes it."""
    given = type_coerce(value, LargeBinary() if wire == "bytes" else Text())
    json_of_server = wire == "json" and session.get_bind().dialect.name != "sqlite"
    return cast(given, JSON) if json_of_server else given


def raw_page(
    session: Session, table: Table, after: Sequence[Any] | None, limit: int
) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Some rows behind ``after`` by primary key: the key, and sealed values as they are stored."""
    keys = list(table.primary_key)
    columns = sealed_columns(table)
    query = select(*keys, *(_raw(one, wire_of(one)) for one in columns.values()))
    if after is not None:
        query = query.where(tuple_(*keys) > tuple_(*after))
    rows = session.execute(query.order_by(*keys).limit(limit)).all()
    width = len(keys)
    return [(tuple(row[:width]), dict(zip(columns, row[width:], strict=True))) for row in rows]


def _step_table(ws: Workspace, going: Going, table: Table) -> None:
    keyring = keyring_of(ws)
    after = json.loads(going.after) if going.after else None
    with ws.catalog.read() as session:
        looked = raw_page(session, table, after, ROWS_AT_ONCE)
    stale = any(_is_stale(table, values, keyring) for _, values in looked)
    with ws.catalog.write() as session:
        # What was read before the lock is what is there, or newer and sealed with the newest key.
        rows = raw_page(session, table, after, ROWS_AT_ONCE) if stale else looked
        for key, values in rows:
            _seal_row(session, table, key, values, keyring)
        last = rows[-1][0] if rows else None
        whole = len(rows) < ROWS_AT_ONCE
        _note(session, going, None if whole or last is None else json.dumps(last), len(rows))


def _is_stale(table: Table, values: dict[str, Any], keyring: Keyring) -> bool:
    return any(
        stored is not None
        and sealed_by(keyring, wire_of(table.columns[name]), stored) != keyring.current_id
        for name, stored in values.items()
    )


def _seal_row(
    session: Session, table: Table, key: tuple[Any, ...], values: dict[str, Any], keyring: Keyring
) -> None:
    row = row_key(iter(key))
    new: dict[str, Any] = {}
    for name, stored in values.items():
        wire = wire_of(table.columns[name])
        if stored is None or sealed_by(keyring, wire, stored) == keyring.current_id:
            continue
        label = f"{table.name}.{name}"
        try:
            plain = open_stored(keyring, wire, label, row, stored)
        except (SealBroken, SealKeyMissing) as error:
            # It stays for `encryption check` to count; the others are sealed all the same.
            _log.error("a value of %s cannot be sealed anew: %s", label, error.detail)
            continue
        new[name] = _stored(stored_form(keyring, wire, label, row, plain), wire, session)
    if new:
        where = [column == value for column, value in zip(table.primary_key, key, strict=True)]
        session.execute(update(table).where(*where).values(new))


def _step_contacts(ws: Workspace, going: Going) -> None:
    keyring = keyring_of(ws)
    with ws.catalog.write() as session:
        plain = session.scalars(
            select(AdContact).where(AdContact.key.not_like(f"{CONTACT_MARK}%")).limit(ROWS_AT_ONCE)
        ).all()
        for row in plain:
            form = contact_form(keyring, row.key)
            session.delete(row)
            if session.get(AdContact, (row.ad_id, row.kind, form)) is None:
                session.add(AdContact(ad_id=row.ad_id, kind=row.kind, key=form))
        whole = len(plain) < ROWS_AT_ONCE
        _note(session, going, None if whole else going.after, len(plain))


# --- files -----------------------------------------------------------------------------------


def _named(session: Session, after: str, limit: int) -> list[str]:
    """Some originals that the catalog names, behind ``after``, in order."""
    found: set[str] = set()
    for column in (Image.sha256, CapturePage.sha256, StagedImage.sha256):
        query = select(column).where(column > after).distinct().order_by(column).limit(limit)
        found.update(session.scalars(query))
    return sorted(found)[:limit]


def _step_originals(ws: Workspace, going: Going) -> None:
    with ws.catalog.read() as session:
        some = _named(session, going.after, FILES_AT_ONCE)
    for sha256 in some:
        seal_original(ws, sha256)
    with ws.catalog.write() as session:
        whole = len(some) < FILES_AT_ONCE
        _note(session, going, None if whole else some[-1], len(some))


def seal_original(ws: Workspace, sha256: str) -> None:
    """Have the bytes lie there sealed with the newest key. Raises the StorageError tree."""
    blobs: BlobStore = ws.blobs
    if not blobs.outdated(sha256):
        return
    try:
        data = blobs.get(sha256)
    except (BlobMissing, BlobDamaged, SealKeyMissing) as error:
        _log.error("the original %s cannot be sealed: %s", sha256, error.detail)
        return
    receiving = blobs.receive()
    try:
        receiving.write(data)
        blobs.keep([receiving.done()], evenly=True)
    finally:
        receiving.abort()
    blobs.drop_plain(sha256)
    # It may have been forgotten since it was read; then it must not be there again.
    if not removals.is_owned(ws, sha256):
        with ws.catalog.write():
            if not removals.is_owned(ws, sha256):
                blobs.delete(sha256)


def _end(ws: Workspace, going: Going) -> None:
    """What no row names as well, the segments, and then the older keys are used by nothing."""
    for sha256 in ws.blobs.digests():
        seal_original(ws, sha256)
    for view in ws.views.opened():
        reseal((view.cases, view.ads), ws.index_dir)
    with ws.catalog.write() as session:
        work = session.get(SealingWork, going.work_id)
        if work is None or work.finished_at is not None or work.data_key_id != going.data_key_id:
            return
        work.finished_at = utc_now()
        was_plain = work.plain is not None
        session.execute(
            update(DataKey)
            .where(
                DataKey.purpose == "seal",
                DataKey.data_key_id != going.data_key_id,
                DataKey.retired_at.is_(None),
            )
            .values(retired_at=utc_now())
        )
        record(
            session,
            "encryption.finish",
            subject=("data_key", going.data_key_id),
            details={"sealed_for_the_first_time": was_plain},
        )
    keyring_of(ws).refresh()
    # What was there before is in free pages and in the log of the database.
    ws.catalog.scrub()
    if ws.catalog.is_sqlite:
        clear_slack(ws.catalog)


# --- looking ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Found:
    """What a look at everything found: how many values by the id of their data key (empty: plain),
    and how many values and originals were broken, by column."""

    by_key: dict[str, int]
    broken: dict[str, int]


def check(ws: Workspace, report: Callable[[str, int], None] = lambda *_: None) -> Found:
    """Open every sealed value and every original. Raises :class:`EncryptionOff` and the
    StorageError tree."""
    keyring = keyring_of(ws)
    found = Found({}, {})
    for table in Base.metadata.sorted_tables:
        if sealed_columns(table):
            _check_table(ws, table, keyring, found, report)
    with ws.catalog.read() as session:
        contacts = select(AdContact.key).where(AdContact.key.not_like(f"{CONTACT_MARK}%"))
        plain = len(session.scalars(contacts).all())
    if plain:
        _count(found.by_key, "", plain)
    for number, sha256 in enumerate(ws.blobs.digests(), start=1):
        try:
            ws.blobs.get(sha256)
        except (BlobDamaged, BlobMissing, SealKeyMissing):
            _count(found.broken, ORIGINALS)
        report(ORIGINALS, number)
    return found


def _check_table(
    ws: Workspace,
    table: Table,
    keyring: Keyring,
    found: Found,
    report: Callable[[str, int], None],
) -> None:
    after: tuple[Any, ...] | None = None
    done = 0
    while True:
        with ws.catalog.read() as session:
            rows = raw_page(session, table, after, ROWS_AT_ONCE)
        for key, values in rows:
            for name, stored in values.items():
                if stored is not None:
                    _check_value(keyring, table, name, key, stored, found)
        done += len(rows)
        report(table.name, done)
        if len(rows) < ROWS_AT_ONCE:
            return
        after = rows[-1][0]


def _check_value(
    keyring: Keyring, table: Table, name: str, key: tuple[Any, ...], stored: Any, found: Found
) -> None:
    wire = wire_of(table.columns[name])
    label = f"{table.name}.{name}"
    _count(found.by_key, sealed_by(keyring, wire, stored) or "")
    try:
        open_stored(keyring, wire, label, row_key(iter(key)), stored)
    except (SealBroken, SealKeyMissing):
        _count(found.broken, label)


def _count(counts: dict[str, int], name: str, more: int = 1) -> None:
    counts[name] = counts.get(name, 0) + more
