"""What the designated role decides about a withheld picture, and its state after a restore."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from indexer import queue, removals
from indexer.audit import chain
from indexer.catalog.picture_tables import WithheldImage
from indexer.catalog.tables import Ad, Capture, CaptureImage, Case, Photo
from indexer.errors import (
    LegalHold,
    SecondPersonNeeded,
    WithheldNotFound,
    WithheldStateInvalid,
)
from indexer.ids import new_id
from indexer.persons import same_person
from indexer.times import utc_now
from indexer.withheld import checks
from indexer.withheld.rows import (
    DELETED,
    LEDGER,
    OUTCOMES,
    PRESERVED,
    RELEASED,
    WithheldRecord,
    note_for_restores,
    records,
    restate,
)

if TYPE_CHECKING:
    from indexer.workspace import Workspace

_SYSTEM = "system"


def settle(ws: Workspace, sha256: str, outcome: str, *, actor: str) -> WithheldRecord:
    """What the designated role decided. Pixels are seen again only where it is released, by
    somebody other than who flagged it; bytes go only after they were reported and preserved, by
    somebody other than who flagged and who preserved it, and while nothing that has the picture is
    under a legal hold.

    Raises :class:`WithheldNotFound`, :class:`WithheldStateInvalid`, :class:`SecondPersonNeeded`,
    :class:`LegalHold`.
    """
    if outcome not in OUTCOMES:
        raise WithheldStateInvalid(f"{outcome!r} is no outcome.")
    if outcome == RELEASED:
        with ws.catalog.read() as session:
            copies = [row.sha256 for row in _copies(session, sha256)]
        # So that a copy that a list names by now is not released with it.
        checks.check(ws, copies)
    with ws.catalog.write() as session:
        row = session.get(WithheldImage, sha256, populate_existing=True)
        if row is None:
            raise WithheldNotFound(sha256)
        allowed = {None: {PRESERVED, RELEASED}, PRESERVED: {DELETED, RELEASED}}
        if outcome not in allowed.get(row.outcome, set()):
            raise WithheldStateInvalid(
                f"The picture is {row.outcome or 'not settled'}; that cannot become {outcome}."
            )
        _require_second_person(session, row, outcome, actor)
        if outcome == DELETED:
            _refuse_held(session, sha256)
        _settle(session, row, outcome, actor)
        if outcome == RELEASED:
            for copy in _copies(session, sha256):
                _release_copy(session, ws, copy, actor)
        record = records(session, [row])[0]
    removals.finish_if_possible(ws)
    return record


def _require_second_person(session: Session, row: WithheldImage, outcome: str, actor: str) -> None:
    before = {RELEASED: [row.actor], DELETED: [row.actor, row.settled_by or ""]}
    for other in before.get(outcome, []):
        if other not in ("", _SYSTEM) and same_person(session, actor, other):
            raise SecondPersonNeeded


def _refuse_held(session: Session, sha256: str) -> None:
    cases = select(Case.case_id).where(
        Photo.sha256 == sha256, Case.case_id == Photo.case_id, Case.legal_hold.is_(True)
    )
    ads = select(Ad.ad_id).where(
        CaptureImage.sha256 == sha256,
        Capture.capture_id == CaptureImage.capture_id,
        Ad.ad_id == Capture.ad_id,
        Ad.legal_hold.is_(True),
    )
    if any(session.scalar(held.limit(1)) is not None for held in (cases, ads)):
        raise LegalHold(
            "A case or an ad that has this picture is under a legal hold; its bytes may not be "
            "deleted.",
            remedy="Have the hold lifted first.",
        )


def _copies(session: Session, sha256: str) -> list[WithheldImage]:
    """What is withheld only for being a copy of it, and waits for a decision."""
    return list(
        session.scalars(
            select(WithheldImage).where(
                WithheldImage.copy_of == sha256,
                WithheldImage.reason == "copy",
                WithheldImage.settled_at.is_(None),
            )
        )
    )


def _release_copy(session: Session, ws: Workspace, row: WithheldImage, actor: str) -> None:
    """A copy is free with its source, unless there is another reason to withhold it, or its bytes
    are away, so that nobody can tell."""
    compared, why = checks.why_still(session, ws, row.sha256)
    if why is not None:
        restate(session, row, why)
    elif compared:
        _settle(session, row, RELEASED, actor)


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
    note_for_restores(session, row)


def restored(ws: Workspace, kind: str, sha256: str, actor: str, at: datetime) -> bool:
    """Bring a picture of a restored back-up into the state that the file of purges tells; returns
    whether it is one of those states. Copies of one that stays withheld are looked for anew."""
    outcomes = {name: outcome for outcome, name in LEDGER.items()}
    if kind not in outcomes:
        return False
    outcome = outcomes[kind]
    digests = checks.pdq_to_find_copies(ws, sha256)
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
        if row.reason == "flagged" and row.pdq is None and digests.pdq is not None:
            row.pdq, row.pdq_quality = digests.pdq, digests.pdq_quality
            row.compared_at = None
            queue.enqueue(session, "check_pictures", row.withheld_id)
        chain.record(
            session,
            "picture.restore",
            subject=("picture", sha256),
            details={"state": kind},
        )
        if outcome == DELETED:
            removals.request_bytes(session, [sha256])
    return True
