"""Withholding a picture, and what the designated role decides about it.

Effective in every process with the commit: whoever is about to show a picture asks the catalog.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal, cast, get_args

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from indexer import purges, queue, removals
from indexer.audit import chain
from indexer.batches import chunks
from indexer.catalog.picture_tables import WithheldImage
from indexer.catalog.tables import Capture, CaptureImage, Photo
from indexer.errors import (
    LegalHold,
    PictureWithheld,
    SecondPersonNeeded,
    WithheldNotFound,
    WithheldStateInvalid,
)
from indexer.ids import decode_cursor, encode_cursor, new_id
from indexer.records import Page
from indexer.times import utc_now
from indexer.withheld import notices

if TYPE_CHECKING:
    from indexer.workspace import Workspace

Reason = Literal["listed", "flagged", "copy"]
FlagReason = Literal[
    "known_abuse_picture", "sexual_picture_of_minor", "nudity_of_minor", "court_order"
]
FLAG_REASONS: Final[tuple[str, ...]] = get_args(FlagReason)
Outcome = Literal["reported_and_preserved", "not_applicable_released", "deleted_after_preservation"]
OUTCOMES: Final[tuple[str, ...]] = get_args(Outcome)

PRESERVED: Final = "reported_and_preserved"
RELEASED: Final = "not_applicable_released"
DELETED: Final = "deleted_after_preservation"

_LEDGER: Final = {
    None: "picture_withheld",
    PRESERVED: "picture_preserved",
    RELEASED: "picture_released",
    DELETED: "picture_deleted",
}
"""What the file of purges calls each state, so that a restored copy has it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Why a picture is withheld: of ``reason``, the list and kind of hash, or the flag, or the
    picture that it is a copy of."""

    reason: Reason
    actor: str
    list_name: str | None = None
    hash_kind: str | None = None
    flag_reason: str | None = None
    copy_of: str | None = None
    case_id: str | None = None
    pdq: bytes | None = None
    pdq_quality: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WithheldRecord:
    """A withheld picture as the designated role sees it: no pixels, and by when to decide."""

    withheld_id: str
    sha256: str
    reason: Reason
    flag_reason: str | None
    list_name: str | None
    hash_kind: str | None
    copy_of: str | None
    case_id: str | None
    actor: str
    at: datetime
    due_at: datetime
    overdue: bool
    settled_at: datetime | None
    settled_by: str | None
    outcome: Outcome | None
    ad_ids: tuple[str, ...]
    case_ids: tuple[str, ...]


# --- asking ----------------------------------------------------------------------------------


def hidden(session: Session, sha256s: Collection[str]) -> set[str]:
    """Which of the pictures are withheld now."""
    found: set[str] = set()
    for some in chunks(dict.fromkeys(sha256s)):
        found |= set(
            session.scalars(
                select(WithheldImage.sha256).where(WithheldImage.sha256.in_(some), IN_FORCE)
            )
        )
    return found


def require_visible(session: Session, sha256: str) -> None:
    """Raises :class:`PictureWithheld` where the picture is withheld."""
    if hidden(session, [sha256]):
        raise PictureWithheld


IN_FORCE = or_(WithheldImage.outcome.is_(None), WithheldImage.outcome != RELEASED)


def bytes_deleted(session: Session, sha256s: Collection[str]) -> set[str]:
    """Which of the pictures have no bytes any more, because that was decided."""
    found: set[str] = set()
    for some in chunks(sha256s):
        found |= set(
            session.scalars(
                select(WithheldImage.sha256).where(
                    WithheldImage.sha256.in_(some), WithheldImage.outcome == DELETED
                )
            )
        )
    return found


def refuse_unsettled(session: Session, sha256s: Collection[str]) -> None:
    """What a report may need is not forgotten: raises :class:`LegalHold` where one of the
    pictures waits for the designated role."""
    for some in chunks(sha256s):
        waiting = session.scalar(
            select(WithheldImage.sha256)
            .where(WithheldImage.sha256.in_(some), WithheldImage.settled_at.is_(None))
            .limit(1)
        )
        if waiting is not None:
            raise LegalHold(
                "A picture of this record is withheld, and what becomes of it is not settled; the "
                "record may not be deleted before.",
                remedy="Have the designated role settle it first.",
            )


# --- withholding -----------------------------------------------------------------------------


def withhold(session: Session, ws: Workspace, sha256: str, why: Why) -> bool:
    """Withhold a picture from now on, in the caller's transaction; returns whether that is new.

    One that was released is withheld again only where a person flags it. The act is recorded, the
    designated role is told, and the file of purges learns of it for restored back-ups.
    """
    row = session.get(WithheldImage, sha256)
    if row is not None and (row.outcome != RELEASED or why.reason != "flagged"):
        return False
    _write(session, ws, sha256, why, row)
    return True


def arrived(session: Session, ws: Workspace, sha256s: Collection[str]) -> None:
    """Bytes came in once more, in the caller's transaction: where they had been deleted after
    preservation, they wait for a decision anew."""
    for sha256 in bytes_deleted(session, sha256s):
        row = session.get_one(WithheldImage, sha256)
        why = Why(
            reason=cast("Reason", row.reason),
            actor="system",
            list_name=row.list_name,
            hash_kind=row.hash_kind,
            flag_reason=row.flag_reason,
            copy_of=row.copy_of,
            case_id=row.case_id,
            pdq=row.pdq,
            pdq_quality=row.pdq_quality,
        )
        _write(session, ws, sha256, why, row)


def _write(
    session: Session, ws: Workspace, sha256: str, why: Why, row: WithheldImage | None
) -> None:
    now = utc_now()
    if row is None:
        row = WithheldImage(sha256=sha256, withheld_id=new_id())
        session.add(row)
    row.reason, row.actor, row.at = why.reason, why.actor, now
    row.list_name, row.hash_kind = why.list_name, why.hash_kind
    row.flag_reason, row.copy_of, row.case_id = why.flag_reason, why.copy_of, why.case_id
    row.pdq, row.pdq_quality, row.compared_at = why.pdq, why.pdq_quality, None
    row.due_at = now + timedelta(hours=ws.options.withheld_hours)
    row.overdue_at = row.settled_at = row.settled_by = row.outcome = None
    session.flush()
    chain.record(
        session,
        "picture.flag" if why.reason == "flagged" else "picture.withhold",
        subject=("picture", sha256),
        case_id=why.case_id,
        details={
            "reason": why.flag_reason or why.reason,
            "hash_kind": why.hash_kind,
            "copy_of": why.copy_of,
        },
    )
    _note_for_restores(session, row)
    notices.tell(session, row.withheld_id, "picture.withheld", emails=ws.options.withheld_emails)
    if why.reason == "flagged":
        queue.enqueue(session, "check_pictures", row.withheld_id)


def _note_for_restores(session: Session, row: WithheldImage) -> None:
    purges.record_purge(
        session, row.settled_by or row.actor, _LEDGER[row.outcome], row.sha256, {row.reason: 1}
    )


def restored(ws: Workspace, kind: str, sha256: str, actor: str, at: datetime) -> bool:
    """Bring a picture of a restored back-up into the state that the file of purges tells; returns
    whether it is one of those states."""
    outcomes = {name: outcome for outcome, name in _LEDGER.items()}
    if kind not in outcomes:
        return False
    outcome = outcomes[kind]
    with ws.catalog.write() as session:
        row = session.get(WithheldImage, sha256)
        if row is None:
            row = WithheldImage(
                sha256=sha256,
                withheld_id=new_id(),
                reason="flagged",
                actor=actor,
                at=at,
                due_at=at + timedelta(hours=ws.options.withheld_hours),
            )
            session.add(row)
        row.outcome = outcome
        row.settled_at, row.settled_by = (None, None) if outcome is None else (at, actor)
        chain.record(
            session,
            "picture.restore",
            subject=("picture", sha256),
            details={"state": kind},
        )
        if outcome == DELETED:
            removals.request_bytes(session, [sha256])
    return True


# --- settling --------------------------------------------------------------------------------


def settle(ws: Workspace, sha256: str, outcome: str, *, actor: str) -> WithheldRecord:
    """What the designated role decided. Pixels are seen again only where it is released, by
    somebody other than who flagged it; bytes go only after they were reported and preserved.

    Raises :class:`WithheldNotFound`, :class:`WithheldStateInvalid`, :class:`SecondPersonNeeded`.
    """
    if outcome not in OUTCOMES:
        raise WithheldStateInvalid(f"{outcome!r} is no outcome.")
    with ws.catalog.write() as session:
        row = session.get(WithheldImage, sha256, populate_existing=True)
        if row is None:
            raise WithheldNotFound(sha256)
        allowed = {None: {PRESERVED, RELEASED}, PRESERVED: {DELETED, RELEASED}}
        if outcome not in allowed.get(row.outcome, set()):
            raise WithheldStateInvalid(
                f"The picture is {row.outcome or 'not settled'}; that cannot become {outcome}."
            )
        if outcome == RELEASED and actor == row.actor and row.reason != "listed":
            raise SecondPersonNeeded
        settled = [row]
        if outcome == RELEASED:
            # What was withheld only for being a copy of it is free with it.
            settled += session.scalars(
                select(WithheldImage).where(
                    WithheldImage.copy_of == sha256, WithheldImage.settled_at.is_(None)
                )
            )
        for one in settled:
            _settle(session, one, outcome, actor)
        record = _records(session, [row])[0]
    removals.finish_if_possible(ws)
    return record


def _settle(session: Session, row: WithheldImage, outcome: str, actor: str) -> None:
    before = row.outcome
    row.outcome, row.settled_at, row.settled_by = outcome, utc_now(), actor
    session.flush()
    if outcome == DELETED:
        removals.request_bytes(session, [row.sha256])
    chain.record(
        session,
        "picture.settle",
        subject=("picture", row.sha256),
        case_id=row.case_id,
        details={"state": outcome, "before": before, "copy_of": row.copy_of},
    )
    _note_for_restores(session, row)


def note_overdue(ws: Workspace) -> int:
    """Tell of pictures whose deadline passed without a decision, once each; returns how many."""
    late = (
        WithheldImage.settled_at.is_(None),
        WithheldImage.overdue_at.is_(None),
        WithheldImage.due_at < utc_now(),
    )
    with ws.catalog.read() as session:
        if session.scalar(select(WithheldImage.sha256).where(*late).limit(1)) is None:
            return 0
    with ws.catalog.write() as session:
        rows = session.scalars(select(WithheldImage).where(*late).limit(100)).all()
        for row in rows:
            row.overdue_at = utc_now()
            chain.record(
                session,
                "picture.overdue",
                subject=("picture", row.sha256),
                case_id=row.case_id,
                outcome="overdue",
            )
            notices.tell(
                session, row.withheld_id, "picture.overdue", emails=ws.options.withheld_emails
            )
        return len(rows)


# --- listing ---------------------------------------------------------------------------------


def list_withheld(
    ws: Workspace, *, settled: bool = False, limit: int = 50, cursor: str | None = None
) -> Page[WithheldRecord]:
    """Withheld pictures, those that came last first; ``settled``: also those that are settled.

    Raises :class:`InvalidCursor`.
    """
    query = select(WithheldImage).order_by(WithheldImage.withheld_id.desc()).limit(limit + 1)
    if not settled:
        query = query.where(WithheldImage.settled_at.is_(None))
    if cursor is not None:
        query = query.where(WithheldImage.withheld_id < decode_cursor(cursor))
    with ws.catalog.read() as session:
        rows = session.scalars(query).all()
        items = _records(session, rows[:limit])
    more = len(rows) > limit
    return Page(tuple(items), encode_cursor(items[-1].withheld_id) if more else None)


def get_withheld(ws: Workspace, sha256: str) -> WithheldRecord:
    """One of them. Raises :class:`WithheldNotFound`."""
    with ws.catalog.read() as session:
        row = session.get(WithheldImage, sha256)
        if row is None:
            raise WithheldNotFound(sha256)
        return _records(session, [row])[0]


def waiting(session: Session) -> tuple[int, int]:
    """How many pictures wait for the designated role, and how many of them are overdue."""
    unsettled = WithheldImage.settled_at.is_(None)
    every = session.scalar(select(func.count()).where(unsettled)) or 0
    late = session.scalar(select(func.count()).where(unsettled, WithheldImage.due_at < utc_now()))
    return every, late or 0


def compared(session: Session, sha256: str) -> None:
    """Note, in the caller's transaction, that all that is stored was compared with it."""
    session.execute(
        update(WithheldImage).where(WithheldImage.sha256 == sha256).values(compared_at=utc_now())
    )


def _records(session: Session, rows: Sequence[WithheldImage]) -> list[WithheldRecord]:
    ads: dict[str, list[str]] = {}
    cases: dict[str, list[str]] = {}
    for some in chunks(row.sha256 for row in rows):
        shown = session.execute(
            select(CaptureImage.sha256, Capture.ad_id)
            .join(Capture, Capture.capture_id == CaptureImage.capture_id)
            .where(CaptureImage.sha256.in_(some))
            .distinct()
            .order_by(Capture.ad_id)
        )
        for sha256, ad_id in shown:
            ads.setdefault(str(sha256), []).append(ad_id)
        for sha256, case_id in session.execute(
            select(Photo.sha256, Photo.case_id)
            .where(Photo.sha256.in_(some))
            .order_by(Photo.case_id)
        ):
            cases.setdefault(sha256, []).append(case_id)
    now = utc_now()
    return [
        WithheldRecord(
            withheld_id=row.withheld_id,
            sha256=row.sha256,
            reason=cast("Reason", row.reason),
            flag_reason=row.flag_reason,
            list_name=row.list_name,
            hash_kind=row.hash_kind,
            copy_of=row.copy_of,
            case_id=row.case_id,
            actor=row.actor,
            at=row.at,
            due_at=row.due_at,
            overdue=row.settled_at is None and row.due_at < now,
            settled_at=row.settled_at,
            settled_by=row.settled_by,
            outcome=cast("Outcome | None", row.outcome),
            ad_ids=tuple(ads.get(row.sha256, ())),
            case_ids=tuple(cases.get(row.sha256, ())),
        )
        for row in rows
    ]
