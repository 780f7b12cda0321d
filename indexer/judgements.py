"""What people concluded about pairs of a case and a face in a picture; kept for good.

A judgement is never changed: a later one supersedes it. The pair is the case and the face in that
picture, told by its box, so what was decided stays decided when the ad is forgotten and sent
again, or when the faces are read anew by another model. It is never spread to other pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, TypeAlias, cast

from annotated_types import MaxLen, MinLen
from sqlalchemy import select
from sqlalchemy.orm import Session

from indexer import audit
from indexer.batches import chunks
from indexer.cases import require_open
from indexer.catalog.tables import Candidate, Face, Judgement
from indexer.errors import CandidateNotFound
from indexer.faces import box_of, same_place
from indexer.ids import new_id
from indexer.times import utc_now
from indexer.workspace import Workspace

Conclusion: TypeAlias = Literal[
    "strongly_supports_same",
    "supports_same",
    "inconclusive",
    "supports_different",
    "strongly_supports_different",
]
"""Ordinal, without percentages and without certainty (OSAC 2022-S-0007)."""

Component: TypeAlias = Literal[
    "skin",
    "face_outline",
    "face_composition",
    "hairline",
    "forehead",
    "eyebrows",
    "eyes",
    "cheeks",
    "nose",
    "ears",
    "mouth",
    "chin_jawline",
    "neck",
    "facial_hair",
    "facial_lines",
    "scars",
    "facial_marks",
    "alterations",
    "other",
]
"""Components of a morphological comparison (FISWG, *Facial Image Comparison Feature List*)."""

Finding: TypeAlias = Literal["similar", "different", "not_visible"]
Reason: TypeAlias = Annotated[str, MinLen(1), MaxLen(10_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgementRecord:
    """One judgement. ``supersedes`` names the one of the same pair before it."""

    judgement_id: str
    candidate_id: str
    case_id: str
    conclusion: Conclusion
    reason: str
    components: Mapping[str, str]
    actor: str
    at: datetime
    contract_id: str
    supersedes: str | None


def judge(
    ws: Workspace,
    candidate_id: str,
    conclusion: Conclusion,
    reason: str,
    *,
    components: Mapping[Component, Finding] | None = None,
    actor: str,
) -> JudgementRecord:
    """Record what a person concluded about a candidate of an open case.

    Raises :class:`CandidateNotFound`, :class:`CaseClosed`.
    """
    with ws.catalog.write() as session:
        row = session.get(Candidate, candidate_id)
        face = None if row is None else session.get(Face, row.face_id)
        if row is None or face is None:
            raise CandidateNotFound(candidate_id)
        require_open(session, row.case_id)
        before = _of_pair(session, row.case_id, face)
        judgement = Judgement(
            judgement_id=new_id(),
            case_id=row.case_id,
            candidate_id=candidate_id,
            image_sha256=face.sha256,
            x=face.x,
            y=face.y,
            width=face.width,
            height=face.height,
            conclusion=conclusion,
            reason=reason,
            components=dict(components or {}),
            actor=actor,
            at=utc_now(),
            contract_id=row.contract_id,
            supersedes=before[-1].judgement_id if before else None,
        )
        session.add(judgement)
        # The face may be a candidate under another contract as well.
        for other, there in session.execute(
            select(Candidate, Face)
            .join(Face, Face.face_id == Candidate.face_id)
            .where(Candidate.case_id == row.case_id, Face.sha256 == face.sha256)
        ):
            if _same_face(there, judgement):
                other.status, other.held_at = conclusion, None
        audit.record(
            session,
            "judgement.create",
            subject=("judgement", judgement.judgement_id),
            case_id=row.case_id,
            details={
                "candidate_id": candidate_id,
                "conclusion": conclusion,
                "contract_id": row.contract_id,
                "supersedes": judgement.supersedes,
                "sha256": _fingerprint(judgement),
            },
        )
        return _record(judgement)


def judgements_of(ws: Workspace, candidate_id: str) -> tuple[JudgementRecord, ...]:
    """Every judgement about a candidate's pair, oldest first. Raises :class:`CandidateNotFound`."""
    with ws.catalog.read() as session:
        row = session.get(Candidate, candidate_id)
        face = None if row is None else session.get(Face, row.face_id)
        if row is None or face is None:
            raise CandidateNotFound(candidate_id)
        return tuple(_record(one) for one in _of_pair(session, row.case_id, face))


def decided(session: Session, case_id: str, face_ids: Sequence[str]) -> dict[str, str]:
    """The conclusion in force for each of these faces that was judged in this case before."""
    found: dict[str, str] = {}
    for some in chunks(face_ids):
        rows = session.execute(
            select(Face, Judgement)
            .join(Judgement, Judgement.image_sha256 == Face.sha256)
            .where(Face.face_id.in_(some), Judgement.case_id == case_id)
            .order_by(Judgement.judgement_id)
        )
        for face, judgement in rows:
            if _same_face(face, judgement):
                found[face.face_id] = judgement.conclusion
    return found


def _of_pair(session: Session, case_id: str, face: Face) -> list[Judgement]:
    rows = session.scalars(
        select(Judgement)
        .where(Judgement.case_id == case_id, Judgement.image_sha256 == face.sha256)
        .order_by(Judgement.judgement_id)
    )
    return [row for row in rows if _same_face(face, row)]


def _same_face(face: Face, judgement: Judgement) -> bool:
    return same_place(box_of(face), box_of(judgement))


def _fingerprint(row: Judgement) -> str:
    """The digest of what was concluded, by which the audit log holds the row to it. The id in it
    is random, so that the digest tells nobody who guesses at the reason."""
    told = [row.judgement_id, row.actor, row.conclusion, row.reason, row.components]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _record(row: Judgement) -> JudgementRecord:
    return JudgementRecord(
        judgement_id=row.judgement_id,
        candidate_id=row.candidate_id,
        case_id=row.case_id,
        conclusion=cast("Conclusion", row.conclusion),
        reason=row.reason,
        components=row.components,
        actor=row.actor,
        at=row.at,
        contract_id=row.contract_id,
        supersedes=row.supersedes,
    )
