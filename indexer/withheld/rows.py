"""Withholding a picture, and what the designated role decides about it.

Effective in every process with the commit: whoever is about to show a picture asks the catalog.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal, cast, get_args

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, update
from sqlalchemy.orm import Session

from indexer import purges, queue
from indexer.audit import chain
from indexer.batches import chunks
from indexer.catalog.picture_tables import WithheldImage
from indexer.catalog.tables import Capture, CaptureImage, Case, Job, Photo
from indexer.errors import LegalHold, PictureWithheld, WithheldNotFound
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

COPIES_SUBJECT: Final = "copies"
"""The subject of the job that finds copies of pictures that lists name exactly."""

LEDGER: Final = {
    None: "picture_withheld",
    PRESERVED: "picture_preserved",
    RELEASED: "picture_released",
    DELETED: "picture_deleted",
}
"""What the file of purges calls each state, so that a restored copy has it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Why a picture is withheld: of ``reason``, the list and kind of hash, or the flag, or the
    picture that it is a copy of.

    ``listed_at``: when a list named exactly these bytes; None for a PDQ. ``pdq``: where copies of
    it are to be withheld, too.
    """

    reason: Reason
    actor: str
    list_name: str | None = None
    hash_kind: str | None = None
    listed_at: datetime | None = None
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

    One that was released is withheld again where :func:`renews` says so. One that was withheld as
    a copy is so for its own sake once it is listed or flagged itself. The act is recorded, the
    designated role is told, and the file of purges learns of it for restored back-ups.
    """
    row = session.get(WithheldImage, sha256)
    if row is None or (row.outcome == RELEASED and renews(row, why)):
        _write(session, ws, sha256, why, row)
        return True
    if row.outcome == RELEASED:
        return False
    if row.reason == "copy" and why.reason != "copy":
        restate(session, row, why)
    elif why.reason == "listed" and row.list_name is None:
        # Whoever decides about a flag has to know that a list names the picture, too.
        row.list_name, row.hash_kind = why.list_name, why.hash_kind
    return False


def renews(row: WithheldImage, why: Why) -> bool:
    """Whether a picture that was released is withheld again: where a person flags it, and where a
    list named exactly these bytes since. Nearness was judged when it was released."""
    if why.reason == "listed":
        settled = row.settled_at
        return why.listed_at is not None and settled is not None and why.listed_at > settled
    return why.reason == "flagged"


def restate(session: Session, row: WithheldImage, why: Why) -> None:
    """Another reason for a picture that stays withheld, in the caller's transaction."""
    _reason(row, why)
    session.flush()
    _record(session, row)
    _find_copies(session, row)


def arrived(session: Session, ws: Workspace, sha256s: Collection[str]) -> None:
    """Bytes came in once more, in the caller's transaction: where they had been deleted after
    preservation, they wait for a decision anew."""
    for sha256 in bytes_deleted(session, sha256s):
        row = session.get_one(WithheldImage, sha256)
        why = Why(
            reason=cast("Reason", row.reason),
            actor=row.actor,
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
    row.at = now
    _reason(row, why)
    row.due_at = now + timedelta(hours=ws.options.withheld_hours)
    row.overdue_at = row.settled_at = row.settled_by = row.outcome = None
    session.flush()
    _record(session, row)
    note_for_restores(session, row)
    notices.tell(session, row.withheld_id, "picture.withheld", emails=ws.options.withheld_emails)
    _find_copies(session, row)


def _reason(row: WithheldImage, why: Why) -> None:
    row.reason, row.actor = why.reason, why.actor
    row.list_name, row.hash_kind = why.list_name, why.hash_kind
    row.flag_reason, row.copy_of, row.case_id = why.flag_reason, why.copy_of, why.case_id
    row.pdq, row.pdq_quality, row.compared_at = why.pdq, why.pdq_quality, None


def _record(session: Session, row: WithheldImage) -> None:
    chain.record(
        session,
        "picture.flag" if row.reason == "flagged" else "picture.withhold",
        subject=("picture", row.sha256),
        case_id=row.case_id,
        details={
            "reason": row.flag_reason or row.reason,
            "hash_kind": row.hash_kind,
            "copy_of": row.copy_of,
        },
    )


def _find_copies(session: Session, row: WithheldImage) -> None:
    if row.reason == "flagged":
        queue.enqueue(session, "check_pictures", row.withheld_id)
    elif row.pdq is not None:
        # A list names many at once: one job compares with them all.
        waits = select(Job.job_id).where(
            Job.kind == "check_pictures", Job.subject_id == COPIES_SUBJECT, Job.state == "queued"
        )
        if session.scalar(waits.limit(1)) is None:
            queue.enqueue(session, "check_pictures", COPIES_SUBJECT)


def note_for_restores(session: Session, row: WithheldImage) -> None:
    """Write the state of a picture into the ledger of purges, in the caller's transaction."""
    purges.record_purge(
        session, row.settled_by or row.actor, LEDGER[row.outcome], row.sha256, {row.reason: 1}
    )


# --- what is overdue ---------------------------------------------------------------------------


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


def known_to(agency: str | None) -> ColumnElement[bool]:
    """The condition that an agency deals with an entry; None: whoever works for all agencies.

    Ads are everybody's. A picture that only cases have is that of their agencies, and one that
    nothing has any more that of the agency in whose case it was flagged.
    """
    if agency is None:
        return WithheldImage.sha256.is_not(None)
    sha256 = WithheldImage.sha256
    return or_(
        exists().where(CaptureImage.sha256 == sha256),
        exists().where(
            Photo.sha256 == sha256, Case.case_id == Photo.case_id, Case.agency == agency
        ),
        and_(
            ~exists().where(Photo.sha256 == sha256),
            exists().where(Case.case_id == WithheldImage.case_id, Case.agency == agency),
        ),
    )


def list_withheld(
    ws: Workspace,
    *,
    agency: str | None = None,
    settled: bool = False,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[WithheldRecord]:
    """Withheld pictures, those that came last first; ``settled``: also those that are settled;
    ``agency``: only those it deals with (:func:`known_to`).

    Raises :class:`InvalidCursor`.
    """
    query = select(WithheldImage).order_by(WithheldImage.withheld_id.desc()).limit(limit + 1)
    query = query.where(known_to(agency))
    if not settled:
        query = query.where(WithheldImage.settled_at.is_(None))
    if cursor is not None:
        query = query.where(WithheldImage.withheld_id < decode_cursor(cursor))
    with ws.catalog.read() as session:
        rows = session.scalars(query).all()
        items = records(session, rows[:limit])
    more = len(rows) > limit
    return Page(tuple(items), encode_cursor(items[-1].withheld_id) if more else None)


def get_withheld(ws: Workspace, sha256: str) -> WithheldRecord:
    """One of them. Raises :class:`WithheldNotFound`."""
    with ws.catalog.read() as session:
        row = session.get(WithheldImage, sha256)
        if row is None:
            raise WithheldNotFound(sha256)
        return records(session, [row])[0]


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


def records(session: Session, rows: Sequence[WithheldImage]) -> list[WithheldRecord]:
    """The entries as the designated role sees them."""
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
