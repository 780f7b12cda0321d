"""Leads that two agencies have in common, and the question one may put to the other.

A candidate of a case is linked where another agency has an open case with a candidate that is of
the same picture, of another picture in the same ad, or of a face in the same cluster, and that
agency takes it seriously: it was judged to support that it is the same person, or an alert was
raised for it and nobody has judged it yet. What a search merely ranked says nothing and links
nothing, and what was judged different or inconclusive does not either.

Told are the linking facts alone: what both have in common, since when both have it, and the name
of the other agency, without which nobody could be asked. The number of the other case is disclosed
by its owner's answer only.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeAlias, cast, get_args

from sqlalchemy import Select, and_, or_, select
from sqlalchemy.orm import Session, aliased

from indexer.acting import acting
from indexer.audit.chain import record
from indexer.batches import chunks
from indexer.cases import require_open
from indexer.catalog.casework_tables import LinkRequest
from indexer.catalog.tables import (
    Alert,
    Candidate,
    Capture,
    CaptureImage,
    Case,
    Face,
    FaceCluster,
)
from indexer.errors import (
    CandidateNotFound,
    LinkNotFound,
    LinkNotYours,
    LinkRequestNotFound,
    LinkStateInvalid,
)
from indexer.ids import decode_cursor, encode_cursor, new_id
from indexer.records import Page
from indexer.times import utc_now
from indexer.workspace import Workspace

LinkKind: TypeAlias = Literal["same_picture", "same_ad", "same_face_cluster"]
"""What two agencies have in common, the strongest first."""
LinkState: TypeAlias = Literal["asked", "shared", "declined"]
LinkDecision: TypeAlias = Literal["share", "decline"]

SUPPORTING: Final = ("strongly_supports_same", "supports_same")
_BY_STRENGTH: Final[tuple[LinkKind, ...]] = get_args(LinkKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """``link_id`` stands for the other case towards this one; it is computed from ids that cannot
    be guessed, and nothing can be computed from it. ``since``: when the later of the two had it.
    ``request_id``, ``state``: of the newest question, None where nothing was asked."""

    link_id: str
    kind: LinkKind
    agency: str
    since: datetime
    request_id: str | None
    state: LinkState | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkQuestion:
    """A question as one of the two agencies sees it; ``case_id``, ``case_number`` and
    ``candidate_id`` are of its own case. ``shared_case_number`` is the other's, for who asked,
    once it is shared."""

    link_request_id: str
    side: Literal["asked", "received"]
    kind: LinkKind
    state: LinkState
    agency: str
    case_id: str
    case_number: str
    candidate_id: str | None
    note: str | None
    asked_at: datetime
    answer: str | None
    answered_at: datetime | None
    shared_case_number: str | None


@dataclass(frozen=True, slots=True)
class _Found:
    """One candidate of another agency that a candidate of ours is linked to."""

    candidate_id: str
    kind: LinkKind
    other_case_id: str
    other_candidate_id: str
    agency: str
    since: datetime


# --- finding ---------------------------------------------------------------------------------


def links_of(ws: Workspace, candidate_ids: Collection[str]) -> dict[str, tuple[Link, ...]]:
    """The links of candidates of one case, by candidate; those without any are left out. One for
    each other case, of the strongest kind."""
    with ws.catalog.read() as session:
        found = _found(session, candidate_ids)
        asked = _asked(session, found)
        return {
            candidate_id: tuple(_link(session, one, asked) for one in links)
            for candidate_id, links in found.items()
        }


def _found(session: Session, candidate_ids: Collection[str]) -> dict[str, list[_Found]]:
    best: dict[tuple[str, str], _Found] = {}
    for some in chunks(dict.fromkeys(candidate_ids)):
        for kind, query in _queries(some).items():
            for row in session.execute(query):
                pair = (row.mine, row.other_case_id)
                known = best.get(pair)
                since = max(row.my_time, row.their_time)
                if known is not None and (known.kind != kind or known.since <= since):
                    continue
                best[pair] = _Found(
                    row.mine, kind, row.other_case_id, row.theirs, row.agency, since
                )
    found: dict[str, list[_Found]] = {}
    for one in best.values():
        found.setdefault(one.candidate_id, []).append(one)
    for links in found.values():
        links.sort(key=lambda one: (_BY_STRENGTH.index(one.kind), one.agency, one.other_case_id))
    return found


def _queries(
    candidate_ids: Collection[str],
) -> dict[LinkKind, Select[str, str, str, str, datetime, datetime]]:
    mine, my_case, my_face = aliased(Candidate), aliased(Case), aliased(Face)
    other, their_case, their_face = aliased(Candidate), aliased(Case), aliased(Face)
    alerted = (
        select(Alert.alert_id)
        .where(Alert.case_id == other.case_id, Alert.sighting_id == other.sighting_id)
        .exists()
    )
    serious = or_(other.status.in_(SUPPORTING), and_(other.status == "unreviewed", alerted))
    base = (
        select(
            mine.candidate_id.label("mine"),
            other.candidate_id.label("theirs"),
            their_case.case_id.label("other_case_id"),
            their_case.agency.label("agency"),
            mine.created_at.label("my_time"),
            other.created_at.label("their_time"),
        )
        .select_from(mine)
        .join(my_case, my_case.case_id == mine.case_id)
        .join(my_face, my_face.face_id == mine.face_id)
    )
    limits = (
        mine.candidate_id.in_(candidate_ids),
        their_case.status == "open",
        their_case.agency != my_case.agency,
        serious,
    )

    def to_case(
        query: Select[str, str, str, str, datetime, datetime],
    ) -> Select[str, str, str, str, datetime, datetime]:
        return query.join(their_case, their_case.case_id == other.case_id).where(*limits)

    def by_face() -> Select[str, str, str, str, datetime, datetime]:
        return base.join(their_face, their_face.sha256 == my_face.sha256).join(
            other, other.face_id == their_face.face_id
        )

    my_image, their_image = aliased(CaptureImage), aliased(CaptureImage)
    my_capture, their_capture = aliased(Capture), aliased(Capture)
    by_ad = (
        base.join(my_image, my_image.sha256 == my_face.sha256)
        .join(my_capture, my_capture.capture_id == my_image.capture_id)
        .join(their_capture, their_capture.ad_id == my_capture.ad_id)
        .join(their_image, their_image.capture_id == their_capture.capture_id)
        .join(their_face, their_face.sha256 == their_image.sha256)
        .join(other, other.face_id == their_face.face_id)
    )
    my_cluster, their_cluster = aliased(FaceCluster), aliased(FaceCluster)
    by_cluster = (
        base.join(my_cluster, my_cluster.face_id == mine.face_id)
        .join(
            their_cluster,
            (their_cluster.cluster_id == my_cluster.cluster_id)
            & (their_cluster.contract_id == my_cluster.contract_id),
        )
        .join(other, other.face_id == their_cluster.face_id)
    )
    return {
        "same_picture": to_case(by_face()),
        "same_ad": to_case(by_ad),
        "same_face_cluster": to_case(by_cluster),
    }


def _asked(
    session: Session, found: Mapping[str, Iterable[_Found]]
) -> dict[tuple[str, str], LinkRequest]:
    """The newest question for each pair of this case and another."""
    others = {one.other_case_id for links in found.values() for one in links}
    rows: dict[tuple[str, str], LinkRequest] = {}
    for some in chunks(others):
        query = select(LinkRequest).where(LinkRequest.other_case_id.in_(some))
        for row in session.scalars(query.order_by(LinkRequest.request_id)):
            rows[row.case_id, row.other_case_id] = row
    return rows


def _link(session: Session, one: _Found, asked: Mapping[tuple[str, str], LinkRequest]) -> Link:
    case_id = session.get_one(Candidate, one.candidate_id).case_id
    request = asked.get((case_id, one.other_case_id))
    return Link(
        link_id=_link_id(case_id, one.other_case_id),
        kind=one.kind,
        agency=one.agency,
        since=one.since,
        request_id=None if request is None else request.request_id,
        state=None if request is None else cast("LinkState", request.state),
    )


def _link_id(case_id: str, other_case_id: str) -> str:
    """The ids of cases hold 74 random bits each, so that trying ids leads nowhere."""
    digest = hashlib.sha256(f"homeward link\n{case_id}\n{other_case_id}".encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))


# --- asking and answering --------------------------------------------------------------------


def ask(
    ws: Workspace, candidate_id: str, *, link_id: str | None = None, note: str | None = None
) -> LinkQuestion:
    """Ask the owner of the other case, as whoever acts now, about a candidate that both have.

    Without ``link_id`` it is about the strongest link. Raises :class:`CandidateNotFound`,
    ``CaseClosed``, :class:`LinkNotFound`, :class:`LinkStateInvalid` where a question waits or
    was answered by sharing.
    """
    with ws.catalog.write() as session:
        mine = session.get(Candidate, candidate_id)
        if mine is None:
            raise CandidateNotFound(candidate_id)
        require_open(session, mine.case_id)
        links = _found(session, [candidate_id]).get(candidate_id, [])
        one = next(
            (o for o in links if link_id in (None, _link_id(mine.case_id, o.other_case_id))), None
        )
        if one is None:
            raise LinkNotFound(candidate_id)
        before = session.scalar(
            select(LinkRequest.state)
            .where(
                LinkRequest.case_id == mine.case_id,
                LinkRequest.other_case_id == one.other_case_id,
                LinkRequest.state != "declined",
            )
            .limit(1)
        )
        if before is not None:
            raise LinkStateInvalid(
                "The other agency was asked already.", remedy="See its answer, or wait for it."
            )
        row = LinkRequest(
            request_id=new_id(),
            case_id=mine.case_id,
            other_case_id=one.other_case_id,
            candidate_id=candidate_id,
            other_candidate_id=one.other_candidate_id,
            kind=one.kind,
            state="asked",
            note=note or None,
            asked_by=acting().actor,
            asked_at=utc_now(),
        )
        session.add(row)
        record(
            session,
            "link.ask",
            subject=("link_request", row.request_id),
            case_id=mine.case_id,
            details={"candidate": candidate_id, "kind": one.kind},
        )
        session.flush()
        return _question(session, row, "asked")


def answer(
    ws: Workspace,
    link_request_id: str,
    decision: LinkDecision,
    *,
    text: str | None = None,
    agency: str | None = None,
) -> LinkQuestion:
    """Answer as the owner. Sharing discloses the number of the case and ``text`` to who asked, and
    gives no access; declining discloses ``text``. ``agency``: of who answers; None for all.

    Raises :class:`LinkRequestNotFound`, :class:`LinkNotYours` for who asked,
    :class:`LinkStateInvalid` where it was answered.
    """
    with ws.catalog.write() as session:
        row = session.get(LinkRequest, link_request_id)
        if row is None:
            raise LinkRequestNotFound(link_request_id)
        owner = session.get_one(Case, row.other_case_id).agency
        if agency is not None and agency != owner:
            raise LinkNotYours(
                "Your agency asked this question; the other one answers it.",
                remedy="Wait for the answer.",
            )
        if row.state != "asked":
            raise LinkStateInvalid(
                "This question was answered already.", remedy="See the answer; it stays."
            )
        row.state = "shared" if decision == "share" else "declined"
        row.answer = text or None
        row.answered_by, row.answered_at = acting().actor, utc_now()
        record(
            session,
            "link.answer",
            subject=("link_request", row.request_id),
            case_id=row.other_case_id,
            details={"decision": decision},
        )
        session.flush()
        return _question(session, row, "received")


# --- reading ---------------------------------------------------------------------------------


def get_question(ws: Workspace, link_request_id: str, *, agency: str | None) -> LinkQuestion:
    """A question as ``agency`` sees it; who works for all sees what the owner does.

    Raises :class:`LinkRequestNotFound`.
    """
    with ws.catalog.read() as session:
        row = session.get(LinkRequest, link_request_id)
        if row is None:
            raise LinkRequestNotFound(link_request_id)
        return _question(session, row, _side(session, row, agency))


def list_questions(
    ws: Workspace, *, agency: str | None, limit: int = 50, cursor: str | None = None
) -> Page[LinkQuestion]:
    """The questions that ``agency`` asked and was asked (None: all), newest first.

    Raises ``InvalidCursor``.
    """
    query = select(LinkRequest).order_by(LinkRequest.request_id.desc()).limit(limit + 1)
    if agency is not None:
        own = select(Case.case_id).where(Case.agency == agency)
        query = query.where(or_(LinkRequest.case_id.in_(own), LinkRequest.other_case_id.in_(own)))
    if cursor is not None:
        query = query.where(LinkRequest.request_id < decode_cursor(cursor))
    with ws.catalog.read() as session:
        rows = session.scalars(query).all()
        items = tuple(_question(session, row, _side(session, row, agency)) for row in rows[:limit])
    more = len(rows) > limit
    return Page(items, encode_cursor(items[-1].link_request_id) if more else None)


def _side(session: Session, row: LinkRequest, agency: str | None) -> Literal["asked", "received"]:
    asker = session.get_one(Case, row.case_id).agency
    return "asked" if agency is not None and agency == asker else "received"


def _question(
    session: Session, row: LinkRequest, side: Literal["asked", "received"]
) -> LinkQuestion:
    asker = session.get_one(Case, row.case_id)
    owner = session.get_one(Case, row.other_case_id)
    mine, theirs = (asker, owner) if side == "asked" else (owner, asker)
    shared = side == "asked" and row.state == "shared"
    candidate = row.candidate_id if side == "asked" else row.other_candidate_id
    known = candidate is not None and session.get(Candidate, candidate) is not None
    return LinkQuestion(
        link_request_id=row.request_id,
        side=side,
        kind=cast("LinkKind", row.kind),
        state=cast("LinkState", row.state),
        agency=theirs.agency,
        case_id=mine.case_id,
        case_number=mine.case_number,
        candidate_id=candidate if known else None,
        note=row.note,
        asked_at=row.asked_at,
        answer=row.answer,
        answered_at=row.answered_at,
        shared_case_number=owner.case_number if shared else None,
    )
