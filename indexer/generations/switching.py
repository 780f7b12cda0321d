"""Which generation is in use: begun, brought into use, taken back, dropped.

One row of the catalog decides, changed in one transaction together with all that depends on it;
every process follows at its next request or job.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.orm import Session

from indexer import removals
from indexer.batches import chunks
from indexer.catalog import Catalog
from indexer.catalog.tables import (
    Alert,
    Candidate,
    Enrolment,
    Face,
    FaceCluster,
    GalleryLog,
    GalleryMember,
    GallerySegment,
    GalleryShelf,
    ImageAnalysis,
    ImageTrial,
    Job,
)
from indexer.catalog.tables import Generation as Row
from indexer.errors import GenerationIncomplete, GenerationStateInvalid
from indexer.galleries import remove_faces
from indexer.generations import reports, rows
from indexer.generations.missing import look
from indexer.generations.rows import Generation
from indexer.generations.work import start_anew
from indexer.leads import drop_empty_leads
from indexer.records import UNREVIEWED
from indexer.times import utc_now
from models.errors import ContractMismatch

if TYPE_CHECKING:
    from indexer.workspace import Workspace

_log = logging.getLogger(__name__)

KEEP_DAYS: Final = 30.0
"""How long a generation that was in use is kept for going back, unless said otherwise."""

LONGEST_DAYS: Final = 36_500.0

_SURE_S: Final = 3_600.0
"""How long the time to keep a generation has to be seen over before it is dropped."""

_AT_ONCE: Final = 2_000
"""Faces of a dropped generation that are taken away in one transaction."""


def settle(
    catalog: Catalog, contract_id: str, pack: str, dimension: int, *, take_over: bool = False
) -> None:
    """See to it that the contract with which a workspace is opened is the one in use.

    In a catalog that knows no generation yet it is from now on; what earlier versions have left
    under other contracts goes, since nothing can make more of it. Where another one is in use,
    ``take_over`` puts this one in its place, with whatever it holds already: the pack of the one
    before may be one that this version cannot run.

    Raises ``ContractMismatch`` where another one is in use and is not to be replaced: a process
    that makes other vectors must not empty the searches of all others.
    """
    with catalog.read() as session:
        before = rows.active(session)
    if before is not None and before.contract_id != contract_id and not take_over:
        raise ContractMismatch(
            f"The pack {pack or 'that is installed'} makes vectors of the contract {contract_id} "
            f"here; those in use are of {before.contract_id}.",
            remedy="Build them beside those in use with `homeward reindex`, then `homeward "
            "generations switch`; what runs with the earlier version or pack may go on meanwhile. "
            "Or have them answer at once, with whatever is read so far: `homeward generations "
            "take-over`.",
        )
    if before is not None and before.contract_id == contract_id:
        return
    with catalog.write() as session:
        before = rows.active(session)
        if before is not None and before.contract_id == contract_id:
            return
        known = session.get(Row, contract_id)
        if known is not None and known.state == "dropping":
            raise _being_dropped(contract_id)
        if before is None:
            _give_up_unknown(session, contract_id)
        else:
            _log.warning(
                "the contract in use is %s from now on, and was %s; run `homeward reindex`",
                contract_id,
                before.contract_id,
            )
            _retire(session, before.contract_id, "superseded", "system", KEEP_DAYS)
        if known is None:
            rows.add(
                session,
                contract_id,
                pack=pack,
                dimension=dimension,
                state="active",
                actor="system",
            )
        else:
            _bring_into_use(session, known, "system")
        if before is not None:
            start_anew(session)


def _being_dropped(contract_id: str) -> GenerationStateInvalid:
    return GenerationStateInvalid(
        f"The generation {contract_id} is being dropped.",
        remedy="Try again in a minute, when nothing of it is left.",
    )


def _give_up_unknown(session: Session, contract_id: str) -> None:
    """Faces of earlier versions under contracts that nobody can name a pack of."""
    others = session.scalars(
        select(Face.contract_id).where(Face.contract_id != contract_id).distinct()
    )
    for other in others.all():
        rows.add(session, other, pack="", dimension=0, state="dropping", actor="system")


def begin(ws: Workspace, contract_id: str, pack: str, dimension: int, *, actor: str) -> Generation:
    """Begin to build a generation, or go on with one that is there: from now on it receives all
    that is new. Raises :class:`GenerationStateInvalid` for one that is being dropped."""
    with ws.catalog.write() as session:
        known = session.get(Row, contract_id)
        if known is None:
            return rows.add(
                session, contract_id, pack=pack, dimension=dimension, state="building", actor=actor
            )
        if known.state == "dropping":
            raise _being_dropped(contract_id)
        return rows.find(session, contract_id)


def activate(
    ws: Workspace, contract_id: str, *, actor: str, keep_days: float = KEEP_DAYS
) -> Generation:
    """Bring a generation into use; the one before is kept for ``keep_days`` and goes on receiving
    what is new.

    Every open case is compared with the ads once more: that raises alerts for what only this
    generation shows, and for nothing that was told or judged before. One that was in use before
    is brought back whatever is still being read for it.

    Raises GenerationNotFound, :class:`GenerationStateInvalid`, :class:`GenerationIncomplete`
    where something stored is not in it yet, GenerationUnavailable and the errors of packs where
    its pack cannot be had here: nobody could analyse anything under it.
    """
    with ws.catalog.read() as session:
        generation = rows.find(session, contract_id)
        left = look(session, contract_id) if generation.state == "building" else None
    if left:
        raise GenerationIncomplete(
            f"{left.ad_images} images of ads and {left.photos} photos are not in the generation "
            f"{contract_id} yet.",
            remedy=f"Run `homeward reindex --pack {generation.pack}` until it is whole.",
        )
    if generation.state != "dropping":
        ws.views.loaded(contract_id)
    with ws.catalog.write() as session:
        row = rows.require(session, contract_id)
        if row.state not in ("building", "kept"):
            raise GenerationStateInvalid(
                f"The generation {contract_id} is {_WORDS[row.state]}.",
                remedy="See `homeward generations list`.",
            )
        before = rows.active(session)
        if before is not None:
            _retire(session, before.contract_id, None, actor, keep_days)
        _bring_into_use(session, row, actor)
        start_anew(session)
        found = rows.find(session, contract_id)
    ws.views.refresh()
    return found


_WORDS: Final = {
    "active": "in use already",
    "dropping": "being dropped",
    "building": "being built",
    "kept": "kept",
}


def roll_back(ws: Workspace, *, actor: str, keep_days: float = KEEP_DAYS) -> Generation:
    """Bring back the generation that was in use before.

    Raises :class:`GenerationStateInvalid` where none is kept.
    """
    with ws.catalog.read() as session:
        kept = rows.previous(session)
    if kept is None:
        raise GenerationStateInvalid(
            "No earlier generation is kept.",
            remedy="Build it anew: `homeward reindex --pack NAME`.",
        )
    return activate(ws, kept.contract_id, actor=actor, keep_days=keep_days)


def drop(ws: Workspace, contract_id: str, *, actor: str) -> None:
    """Give up a generation that is not in use. Its vectors are in no search any more; upkeep takes
    them away. What people concluded stays, with the boxes of the faces it is about.

    Raises GenerationNotFound, :class:`GenerationStateInvalid` for the one in use.
    """
    with ws.catalog.write() as session:
        row = rows.require(session, contract_id)
        if row.state == "active":
            raise GenerationStateInvalid(
                f"The generation {contract_id} is in use.",
                remedy="Bring another one into use first.",
            )
        _begin_dropping(session, row, actor)
    _drop_reports(ws)


def tidy(ws: Workspace) -> None:
    """Upkeep: drop what was kept for long enough, and take away some of what was dropped."""
    now = utc_now()
    with ws.catalog.read() as session:
        known = rows.all_generations(session)
    for one in known:
        if one.state == "kept" and one.keep_until is not None and one.keep_until <= now:
            # A clock that is wrong for a while must not take the way back.
            since = ws.views.over_since.setdefault(one.contract_id, time.monotonic())
            if time.monotonic() - since < _SURE_S:
                continue
            with ws.catalog.write() as session:
                row = rows.require(session, one.contract_id)
                if row.state == "kept":
                    _begin_dropping(session, row, "system")
            continue
        ws.views.over_since.pop(one.contract_id, None)
        if one.state == "dropping":
            clear(ws, one.contract_id)
    _drop_reports(ws)


def _drop_reports(ws: Workspace) -> None:
    """Take away the comparisons of generations that are gone, whichever process dropped them."""
    with ws.catalog.read() as session:
        reports.keep_only(ws.data_dir, {one.contract_id for one in rows.live(session)})


def clear(ws: Workspace, contract_id: str, most: int | None = 10 * _AT_ONCE) -> bool:
    """Take away what a dropped generation holds, some faces at a time; whether nothing is left.

    Several processes may be at it at once.
    """
    left, after = most, ""
    while left is None or left > 0:
        # Looked for without the lock of writers, which may take long; nothing is added meanwhile.
        with ws.catalog.read() as session:
            some = list(
                session.scalars(
                    select(Face.face_id)
                    .where(
                        Face.contract_id == contract_id,
                        Face.face_id > after,
                        _holds_anything(contract_id),
                    )
                    .order_by(Face.face_id)
                    .limit(_AT_ONCE)
                )
            )
        if not some:
            return _clear_rest(ws, contract_id)
        with _dropping(ws, contract_id) as session:
            if session is None:
                return _is_gone(ws, contract_id)
            _clear_faces(session, contract_id, some)
        after = some[-1]
        if left is not None:
            left -= len(some)
    return False


@contextmanager
def _dropping(ws: Workspace, contract_id: str) -> Generator[Session | None]:
    """A write, or ``None`` where the generation is not (any more) being dropped."""
    with ws.catalog.write() as session:
        row = session.get(Row, contract_id)
        yield session if row is not None and row.state == "dropping" else None


def _is_gone(ws: Workspace, contract_id: str) -> bool:
    with ws.catalog.read() as session:
        return session.get(Row, contract_id) is None


def _begin_dropping(session: Session, row: Row, actor: str) -> None:
    row.state = "dropping"
    row.keep_until = None
    session.execute(delete(Job).where(Job.contract_id == row.contract_id))
    rows.note(session, row, "dropped", actor)
    # The files of its galleries go with the next turn of upkeep.
    removals.request(session, [])


def _wanted() -> ColumnElement[bool]:
    """Whether something that stays speaks of the face: a candidate that was judged, or an alert,
    which keeps the same from being told again."""
    judged = (
        select(Candidate.face_id)
        .where(Candidate.face_id == Face.face_id, Candidate.status != UNREVIEWED)
        .exists()
    )
    return judged | select(Alert.face_id).where(Alert.face_id == Face.face_id).exists()


def _holds_anything(contract_id: str) -> ColumnElement[bool]:
    member = (
        select(GalleryMember.face_id)
        .where(GalleryMember.face_id == Face.face_id, GalleryMember.contract_id == contract_id)
        .exists()
    )
    return Face.vector.is_not(None) | member | ~_wanted()


def _clear_faces(session: Session, contract_id: str, face_ids: Sequence[str]) -> None:
    # By the log, so that whoever has them in memory lets go of them too.
    remove_faces(session, "ads", contract_id, face_ids)
    remove_faces(session, "cases", contract_id, face_ids)
    for some in chunks(face_ids):
        these = Face.face_id.in_(some)
        # What has lost a face was not read any more, should the generation be needed after all.
        images = session.scalars(select(Face.sha256).where(these).distinct()).all()
        session.execute(
            delete(ImageAnalysis).where(
                ImageAnalysis.contract_id == contract_id, ImageAnalysis.sha256.in_(images)
            )
        )
        cases = session.scalars(
            select(Candidate.case_id).where(Candidate.face_id.in_(some)).distinct()
        ).all()
        session.execute(delete(Face).where(these, ~_wanted()))
        drop_empty_leads(session, cases)
        session.execute(update(Face).where(these).values(vector=None))


def _clear_rest(ws: Workspace, contract_id: str) -> bool:
    """Take away what hangs on no face, some at a time, and last of all the generation."""
    images = select(ImageAnalysis.sha256).where(ImageAnalysis.contract_id == contract_id)
    entries = select(GalleryLog.seq).where(
        GalleryLog.contract_id == contract_id, GalleryLog.gallery.in_(("ads", "cases"))
    )
    for query, column, contract in (
        (images, ImageAnalysis.sha256, ImageAnalysis.contract_id),
        (entries, GalleryLog.seq, GalleryLog.contract_id),
    ):
        while True:
            with ws.catalog.read() as session:
                found = session.scalars(query.limit(_AT_ONCE)).all()
            if not found:
                break
            with _dropping(ws, contract_id) as session:
                if session is None:
                    return _is_gone(ws, contract_id)
                for some in chunks(found):
                    these = contract == contract_id, column.in_(some)
                    session.execute(delete(column.class_).where(*these))
    with _dropping(ws, contract_id) as session:
        if session is None:
            return _is_gone(ws, contract_id)
        for table in (*_HELD, Row):
            session.execute(delete(table).where(table.contract_id == contract_id))
        removals.request(session, [])
    return True


_HELD: Final[tuple[Any, ...]] = (
    *(GalleryLog, GallerySegment, GalleryShelf, FaceCluster, Enrolment, ImageAnalysis, ImageTrial),
)


def _retire(
    session: Session, contract_id: str, event: rows.Event | None, actor: str, keep_days: float
) -> None:
    if not 0 <= keep_days <= LONGEST_DAYS:
        raise GenerationStateInvalid(
            f"A generation cannot be kept for {keep_days} days.",
            remedy=f"Give 0 to {LONGEST_DAYS:,.0f} days.",
        )
    row = rows.require(session, contract_id)
    row.state = "kept"
    row.keep_until = utc_now() + timedelta(days=keep_days)
    if event is not None:
        rows.note(session, row, event, actor)
    session.flush()


def _bring_into_use(session: Session, row: Row, actor: str) -> None:
    row.state = "active"
    row.activated_at = utc_now()
    row.keep_until = None
    rows.note(session, row, "activated", actor)
    session.flush()
