"""What the catalog says of generations."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from indexer import audit
from indexer.catalog.tables import Calibration, GenerationEvent
from indexer.catalog.tables import Generation as Row
from indexer.errors import GenerationDropped, GenerationNotFound
from indexer.ids import new_id
from indexer.times import utc_now

GenerationState = Literal["building", "active", "kept", "dropping"]
Event = Literal["begun", "activated", "superseded", "dropped"]

LIVE = ("building", "active", "kept")
"""States in which a generation receives what is new."""


@dataclass(frozen=True, slots=True)
class Generation:
    """``keep_until``: when one that is kept goes; ``None`` for the others."""

    contract_id: str
    generation_id: str
    pack: str
    dimension: int
    state: GenerationState
    created_at: datetime
    activated_at: datetime | None
    keep_until: datetime | None


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the record of which contract was in use when."""

    at: datetime
    contract_id: str
    pack: str
    event: Event
    actor: str


def all_generations(session: Session) -> list[Generation]:
    """All of them, the newest first."""
    rows = session.scalars(select(Row).order_by(Row.created_at.desc(), Row.contract_id))
    return [_record(row) for row in rows]


def changes(session: Session) -> list[Change]:
    """What happened to generations, oldest first."""
    rows = session.scalars(select(GenerationEvent).order_by(GenerationEvent.seq))
    return [
        Change(row.at, row.contract_id, row.pack, cast("Event", row.event), row.actor)
        for row in rows
    ]


def find(session: Session, contract_id: str) -> Generation:
    """One generation. Raises :class:`GenerationNotFound`."""
    return _record(require(session, contract_id))


def require(session: Session, contract_id: str) -> Row:
    """The row of one generation. Raises :class:`GenerationNotFound`."""
    row = session.get(Row, contract_id, populate_existing=True)
    if row is None:
        raise GenerationNotFound(contract_id)
    return row


def active(session: Session) -> Generation | None:
    """The generation in use; ``None`` in a catalog that was never opened with a face pack."""
    row = session.scalar(select(Row).where(Row.state == "active"))
    return None if row is None else _record(row)


def previous(session: Session) -> Generation | None:
    """The generation that was in use last before the present one; ``None`` where none is kept."""
    row = session.scalar(
        select(Row)
        .where(Row.state == "kept", Row.activated_at.is_not(None))
        .order_by(Row.activated_at.desc())
        .limit(1)
    )
    return None if row is None else _record(row)


def active_id(session: Session) -> str | None:
    """The contract in use."""
    found: str | None = session.scalar(select(Row.contract_id).where(Row.state == "active"))
    return found


def in_force(session: Session) -> tuple[Generation | None, str | None]:
    """The generation in use, and the id of the newest calibration that was measured for it here."""
    found = session.execute(_IN_FORCE).first()
    return (None, None) if found is None else (_record(found[0]), found[1])


# Made once: it is asked with every request, and making it takes longer than asking.
_IN_FORCE = select(
    Row,
    select(func.max(Calibration.calibration_id))
    .where(Calibration.contract_id == Row.contract_id)
    .scalar_subquery(),
).where(Row.state == "active")


def is_active(session: Session, contract_id: str) -> bool:
    """Whether this contract is the one in use."""
    return active_id(session) == contract_id


def require_live(session: Session, contract_id: str) -> None:
    """Raises :class:`GenerationDropped` unless this generation receives what is new.

    Whoever writes faces under a contract asks in the same transaction: what is written while a
    generation is being dropped, or after, nobody would take away again.
    """
    row = session.get(Row, contract_id, populate_existing=True)
    if row is None or row.state not in LIVE:
        raise GenerationDropped(contract_id)


def live(session: Session) -> list[Generation]:
    """The generations that receive what is new."""
    return [_record(row) for row in session.scalars(select(Row).where(Row.state.in_(LIVE)))]


def others(session: Session, contract_id: str) -> list[Generation]:
    """The generations that receive what is new, beside this one."""
    return [one for one in live(session) if one.contract_id != contract_id]


def add(
    session: Session,
    contract_id: str,
    *,
    pack: str,
    dimension: int,
    state: Literal["building", "active", "dropping"],
    actor: str,
) -> Generation:
    """A new generation, in the caller's transaction."""
    now = utc_now()
    row = Row(
        contract_id=contract_id,
        generation_id=new_id(),
        pack=pack,
        dimension=dimension,
        state=state,
        created_at=now,
        activated_at=now if state == "active" else None,
        keep_until=None,
    )
    session.add(row)
    session.flush()
    events: dict[str, Event] = {"building": "begun", "active": "activated", "dropping": "dropped"}
    note(session, row, events[state], actor)
    return _record(row)


def note(session: Session, row: Row, event: Event, actor: str) -> None:
    """Write down what happened to a generation, in the caller's transaction."""
    session.add(
        GenerationEvent(
            at=utc_now(), contract_id=row.contract_id, pack=row.pack, event=event, actor=actor
        )
    )
    audit.record(
        session,
        "generation.change",
        subject=("generation", row.contract_id),
        details={"event": event, "pack": row.pack},
    )


def _record(row: Row) -> Generation:
    return Generation(
        contract_id=row.contract_id,
        generation_id=row.generation_id,
        pack=row.pack,
        dimension=row.dimension,
        state=cast("GenerationState", row.state),
        created_at=row.created_at,
        activated_at=row.activated_at,
        keep_until=row.keep_until,
    )
