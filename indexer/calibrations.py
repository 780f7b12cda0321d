"""Calibrations that were measured here, kept in the catalog by embedding contract.

Rows are only added: the newest of a contract is in force, and the earlier ones tell which rates
were shown when. Each holds the table as ``models.calibration`` writes it, with the SHA-256 of the
text. A newest one that cannot be used is an error, never passed over: every rate, band and alert
hangs on it.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from indexer import audit
from indexer.catalog import Catalog
from indexer.catalog.tables import Calibration as Row
from indexer.catalog.tables import Generation
from indexer.errors import CalibrationDamaged
from indexer.generations.work import start_anew
from indexer.ids import new_id
from indexer.times import utc_now
from models.calibration import Calibration
from models.errors import ContractMismatch, PackError


@dataclass(frozen=True, slots=True)
class Entry:
    """One calibration in the record, without its table."""

    calibration_id: str
    contract_id: str
    made_at: datetime
    actor: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Kept:
    """The calibration in force, and its entry in the record."""

    entry: Entry
    calibration: Calibration


def keep(catalog: Catalog, calibration: Calibration, *, actor: str) -> str:
    """Store ``calibration``, which is in force for its contract from now on; returns its id. Where
    that contract is in use, every open case is searched for once more.

    Raises the StorageError tree, and ``ValueError`` for what JSON cannot hold.
    """
    content = json.dumps(calibration.to_json(), indent=1, allow_nan=False) + "\n"
    with catalog.write() as session:
        calibration_id = new_id()
        before = newest_ids(session).get(calibration.contract_id)
        if before is not None and calibration_id <= before:
            # The clock of the machine that kept the one before is ahead of this one's.
            calibration_id = str(uuid.UUID(int=uuid.UUID(before).int + 1))
        session.add(
            Row(
                calibration_id=calibration_id,
                contract_id=calibration.contract_id,
                made_at=utc_now(),
                actor=actor,
                sha256=_digest(content),
                content=content,
            )
        )
        active = session.scalar(select(Generation.contract_id).where(Generation.state == "active"))
        if active == calibration.contract_id:
            # What was found while there were no rates, or others, may be due to be told now.
            start_anew(session)
        audit.record(
            session,
            "calibration.keep",
            subject=("calibration", calibration_id),
            details={"contract_id": calibration.contract_id, "sha256": _digest(content)},
        )
    return calibration_id


def stored(catalog: Catalog, contract_id: str) -> Calibration | None:
    """The calibration in force for a contract, where one was measured here.

    Raises :class:`CalibrationDamaged`, ``ContractMismatch`` and the StorageError tree.
    """
    with catalog.read() as session:
        kept = newest(session, contract_id)
    return None if kept is None else kept.calibration


def newest(session: Session, contract_id: str) -> Kept | None:
    """As :func:`stored`, with its entry in the record. Raises as it does."""
    row = session.scalars(
        select(Row)
        .where(Row.contract_id == contract_id)
        .order_by(Row.calibration_id.desc())
        .limit(1)
    ).first()
    if row is None:
        return None
    entry = Entry(row.calibration_id, row.contract_id, row.made_at, row.actor, row.sha256)
    return Kept(entry, _read(entry, row.content))


def newest_ids(session: Session) -> dict[str, str]:
    """The id of the calibration in force, by contract."""
    found = session.execute(
        select(Row.contract_id, func.max(Row.calibration_id)).group_by(Row.contract_id)
    )
    return {row[0]: row[1] for row in found}


def history(catalog: Catalog, contract_id: str) -> list[Entry]:
    """All calibrations that were kept for a contract, the newest first.

    Raises the StorageError tree.
    """
    columns = (Row.calibration_id, Row.contract_id, Row.made_at, Row.actor, Row.sha256)
    with catalog.read() as session:
        found = session.execute(
            select(*columns)
            .where(Row.contract_id == contract_id)
            .order_by(Row.calibration_id.desc())
        )
        return [Entry(*values) for values in found]


def _read(entry: Entry, content: str) -> Calibration:
    if _digest(content) != entry.sha256:
        raise CalibrationDamaged(
            entry.calibration_id, entry.contract_id, "its content is not what was written"
        )
    try:
        calibration = Calibration.from_json(json.loads(content))
    except (ValueError, RecursionError):
        raise CalibrationDamaged(
            entry.calibration_id, entry.contract_id, "it is no whole JSON text"
        ) from None
    except PackError as error:
        raise CalibrationDamaged(entry.calibration_id, entry.contract_id, error.detail) from error
    if calibration.contract_id != entry.contract_id:
        raise ContractMismatch(
            f"The calibration {entry.calibration_id} was measured under the contract "
            f"{calibration.contract_id}, not {entry.contract_id}.",
            remedy="Measure again with `homeward calibrate`: the newest is in force.",
        )
    return calibration


def _digest(content: str) -> str:
    # A text that was cut or edited may hold what UTF-8 cannot: that is damage, not a crash.
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
