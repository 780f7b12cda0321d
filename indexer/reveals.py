"""Whole pictures of candidates: who looks, for which case and why is on record before."""

from __future__ import annotations

from typing import Final

from indexer.acting import acting
from indexer.audit.chain import record
from indexer.catalog.tables import Candidate, Face
from indexer.errors import CandidateNotFound
from indexer.searchable import require_searchable
from indexer.searches import purpose_of
from indexer.workspace import Workspace

REASONS: Final = (
    "compare_surroundings",
    "read_picture_text",
    "other_people",
    "check_face",
)
"""Why a whole picture may be looked at."""


def reveal(ws: Workspace, case_id: str, candidate_id: str, reason: str) -> None:
    """Record that whoever acts now looks at the whole picture of a candidate.

    Raises ``ValueError`` for a reason that is not in the list, :class:`CandidateNotFound`,
    :class:`CaseNotFound`, :class:`CaseClosed`, :class:`ApprovalRequired`.
    """
    if reason not in REASONS:
        raise ValueError(f"no such reason: {reason[:40]!r}")
    with ws.catalog.write() as session:
        case = require_searchable(session, case_id)
        row = session.get(Candidate, candidate_id)
        face = None if row is None else session.get(Face, row.face_id)
        if row is None or face is None or row.case_id != case_id:
            raise CandidateNotFound(candidate_id)
        acting().purpose = purpose_of(case)
        record(
            session,
            "picture.reveal",
            subject=("candidate", candidate_id),
            case_id=case_id,
            details={
                "reason": reason,
                "sha256": face.sha256,
                "agency": case.agency,
                "contract_id": row.contract_id,
            },
        )


def still_allowed(ws: Workspace, case_id: str) -> None:
    """The picture follows its page: the case may still be searched. Raises as :func:`reveal`."""
    with ws.catalog.read() as session:
        require_searchable(session, case_id)
