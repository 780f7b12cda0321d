"""Data keys in the catalog: made, unwrapped, counted, and the keyring that a catalog gets.

Every write transaction begins with a look at which key seals: the write lock makes that exact, so
that nothing is written with an older key once a new one is committed, and nothing is written plain
by a process without keys once encryption is on.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import threading
from hashlib import sha256

from sqlalchemy import event, func, select, update
from sqlalchemy.orm import Session

from indexer.audit.chain import record
from indexer.catalog.engine import Catalog
from indexer.catalog.schema import Base
from indexer.catalog.sealed import bind_rows, sealed_columns
from indexer.catalog.sealing_tables import DataKey, SealingWork
from indexer.catalog.tables import Image
from indexer.errors import KeysUnusable
from indexer.ids import new_id
from indexer.sealing.keyring import ID_BYTES, KEY_BYTES, MAX_SEALS, DataKeys, Keyring, derive
from indexer.sealing.outer import OuterKeys
from indexer.times import utc_now

_log = logging.getLogger(__name__)
_COUNTED = "seals_counted"

RENEW_AT = MAX_SEALS // 2
"""Values after which a data key is replaced by a new one."""
_COUNTED_AT = 256
"""So many values are sealed between two entries of how many there were; a process that dies takes
no more uncounted ones along."""


def attach(catalog: Catalog, outer: OuterKeys | None, *, turn_on: bool = False) -> None:
    """Give the catalog the keyring that ``outer`` opens.

    Without keys in an unencrypted catalog nothing is done. A catalog in which nothing is yet is
    encrypted from now on; one that holds something only with ``turn_on``, and is then sealed by
    ``indexer.sealing.work``. Raises :class:`KeysUnusable` where ``outer`` does not fit.
    """
    with catalog.read() as session:
        there = session.scalar(select(func.count()).select_from(DataKey))
    if outer is None:
        if there:
            raise KeysUnusable(
                "This data folder is encrypted, and no encryption key is set.",
                remedy="Set HOMEWARD_ENCRYPTION_KEY_FILE or HOMEWARD_ENCRYPTION_KEYS. Without the "
                "key the data cannot be read, by nobody and not by any means.",
            )
        return
    if not there:
        _begin(catalog, outer, turn_on)
    with catalog.read() as session:
        keys = load(session, outer)

    def reload() -> DataKeys:
        with catalog.read() as session:
            return load(session, outer)

    keyring = Keyring(keys, reload)
    event.listen(catalog.engine, "before_execute", bind_rows, retval=True)
    catalog.seal_with(keyring, Watch(keyring, outer))


def _begin(catalog: Catalog, outer: OuterKeys, turn_on: bool) -> None:
    with catalog.write() as session:
        if session.scalar(select(func.count()).select_from(DataKey)):
            return  # another process was first
        filled = _holds_something(session)
        if filled and not turn_on:
            raise KeysUnusable(
                "Encryption keys are set, and this data folder is not encrypted.",
                remedy="Run `homeward encryption on`: it seals what is there, while the service "
                "runs. Or unset the keys.",
            )
        add_key(session, outer, "lookup")
        key_id = add_key(session, outer, "seal")
        record(
            session, "encryption.begin", subject=("data_key", key_id), details={"new": not filled}
        )
        if filled:
            start_work(session, key_id, outer, plain=True)


def _holds_something(session: Session) -> bool:
    tables = [table for table in Base.metadata.sorted_tables if sealed_columns(table)]
    found = [session.execute(select(*table.primary_key).limit(1)).first() for table in tables]
    return any(found) or session.execute(select(Image.sha256).limit(1)).first() is not None


def _about(key_id: str, purpose: str) -> bytes:
    return f"homeward data key\0{key_id}\0{purpose}".encode()


def add_key(session: Session, outer: OuterKeys, purpose: str) -> str:
    """Make a data key, in the caller's transaction; returns its id."""
    key_id = secrets.token_hex(ID_BYTES)
    wrapped = outer.wrap(os.urandom(KEY_BYTES), _about(key_id, purpose))
    session.add(
        DataKey(
            data_key_id=key_id,
            purpose=purpose,
            wrapped_by=outer.current,
            wrapped=wrapped,
            seals=0,
            created_at=utc_now(),
        )
    )
    session.flush()
    return key_id


def start_work(session: Session, key_id: str, outer: OuterKeys, *, plain: bool = False) -> None:
    """Note that all has to be sealed with this key; one work that goes on begins anew for it."""
    work = session.scalars(select(SealingWork).where(SealingWork.finished_at.is_(None))).first()
    if work is None:
        work = SealingWork(work_id=new_id(), started_at=utc_now())
        if plain:
            lookup = session.scalars(select(DataKey).where(DataKey.purpose == "lookup")).one()
            work.plain = _proof(_unwrapped(lookup, outer), work.work_id)
    work.data_key_id = key_id
    work.part = work.after = ""
    work.done = 0
    session.add(work)
    session.flush()


def _proof(lookup: bytes, work_id: str) -> bytes:
    """That what is plain may be read, said by somebody who has the keys."""
    return hmac.digest(derive(lookup, b"homeward plain"), work_id.encode(), sha256)


def _unwrapped(row: DataKey, outer: OuterKeys) -> bytes:
    return outer.unwrap(row.wrapped_by, row.wrapped, _about(row.data_key_id, row.purpose))


_NEWEST = (
    select(DataKey.data_key_id, DataKey.seals)
    .where(DataKey.purpose == "seal", DataKey.retired_at.is_(None))
    .order_by(DataKey.created_at.desc(), DataKey.data_key_id.desc())
    .limit(1)
)


def newest(session: Session) -> tuple[str, int]:
    """The id of the data key that seals, and how many values it has sealed."""
    key_id, seals = session.execute(_NEWEST).one()
    return key_id, seals


def load(session: Session, outer: OuterKeys) -> DataKeys:
    """All data keys, unwrapped. Raises :class:`KeysUnusable`."""
    rows = session.scalars(select(DataKey)).all()
    plain = {row.data_key_id: _unwrapped(row, outer) for row in rows}
    lookup = next((plain[row.data_key_id] for row in rows if row.purpose == "lookup"), None)
    if lookup is None:
        raise KeysUnusable(
            "The table of data keys is damaged.", remedy="Restore the catalog from a back-up."
        )
    going_on = session.scalars(select(SealingWork).where(SealingWork.finished_at.is_(None)))
    return DataKeys(
        keys={row.data_key_id: plain[row.data_key_id] for row in rows if row.purpose == "seal"},
        current=newest(session)[0],
        lookup=lookup,
        plain=any(
            work.plain is not None and hmac.compare_digest(work.plain, _proof(lookup, work.work_id))
            for work in going_on
        ),
    )


def rewrap(session: Session, outer: OuterKeys) -> int:
    """Wrap every data key by the current outer key; returns how many were under another one."""
    changed = 0
    for row in session.scalars(select(DataKey)):
        if row.wrapped_by != outer.current:
            key = _unwrapped(row, outer)
            row.wrapped = outer.wrap(key, _about(row.data_key_id, row.purpose))
            row.wrapped_by = outer.current
            changed += 1
    return changed


class Watch:
    """What a catalog asks at the beginning and at the end of each write transaction."""

    def __init__(self, keyring: Keyring, outer: OuterKeys) -> None:
        self.keyring = keyring
        self.outer = outer
        self._lock = threading.Lock()
        self._uncounted = 0
        self._worn = False

    def begin(self, session: Session) -> None:
        """The key that seals from here on is the newest of all."""
        key_id, seals = newest(session)
        if seals >= RENEW_AT:
            self._worn = True
        if key_id != self.keyring.current_id:
            self.keyring.take(load(session, self.outer))

    def end(self, session: Session) -> None:
        """Count what was sealed."""
        with self._lock:
            self._uncounted += self.keyring.take_seals()
            if self._uncounted < _COUNTED_AT:
                return
            session.info[_COUNTED], self._uncounted = self._uncounted, 0
        session.execute(
            update(DataKey)
            .where(DataKey.data_key_id == self.keyring.current_id)
            .values(seals=DataKey.seals + session.info[_COUNTED])
        )

    def rolled_back(self, session: Session) -> None:
        """What was counted in vain is counted again: it was sealed all the same."""
        with self._lock:
            self._uncounted += session.info.pop(_COUNTED, 0)

    def committed(self, catalog: Catalog) -> None:
        """Replace a worn key, in a transaction of its own: a key that could be rolled back with
        somebody's work may have sealed a file by then. The bound is far enough away."""
        with self._lock:
            worn, self._worn = self._worn, False
        if not worn:
            return
        try:
            with catalog.write() as session:
                self._worn = False  # what this transaction has seen itself
                if newest(session)[1] < RENEW_AT:
                    return  # another process was first
                key_id = add_key(session, self.outer, "seal")
                start_work(session, key_id, self.outer)
                record(session, "encryption.renew", subject=("data_key", key_id))
            self.keyring.refresh()
        except Exception:  # noqa: BLE001 - the next transaction tries again
            _log.exception("the data key could not be replaced; it is tried again")
