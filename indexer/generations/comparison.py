"""What a comparison of two generations says: ids and figures, nothing of a person or a picture.

A *candidate* is told by its face; its place in a list is that of the lead that holds the face,
which is what a reviewer sees. ``old`` is the generation in use when the comparison was made,
``new`` the other one. Scores of the two are on scales of their own: they stand beside each other
and are never subtracted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias, get_args

PlaceState: TypeAlias = Literal["listed", "lower", "beyond", "no_face", "unread", "no_photo"]
"""Where a face is in the list of a case under one contract.

``listed``: among the first k; ``lower``: further down, at a known rank; ``beyond``: in the gallery,
yet further down than was looked; ``no_face``: the picture was read and this face was not found in
it; ``unread``: the picture is not read under this contract; ``no_photo``: no photo of the case is
enrolled under it.
"""

Band: TypeAlias = Literal["first", "top_5", "listed", "lower", "beyond", "absent"]
"""Places in groups: rank 1; 2 to 5; 6 to k; then as :data:`PlaceState`; ``absent`` is the rest."""
BANDS: tuple[Band, ...] = get_args(Band)

Finding: TypeAlias = Literal["confirmed", "refused", "inconclusive"]
"""What reviewers concluded, in three groups."""
FINDINGS: tuple[Finding, ...] = get_args(Finding)
FINDING_OF: Mapping[str, Finding] = {
    "strongly_supports_same": "confirmed",
    "supports_same": "confirmed",
    "inconclusive": "inconclusive",
    "supports_different": "refused",
    "strongly_supports_different": "refused",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a face is under one contract. ``rank`` counts leads from 1; ``score`` is the fused
    cosine in [-1, 1]; both ``None`` where they are not known."""

    state: PlaceState
    face_id: str | None = None
    rank: int | None = None
    score: float | None = None

    @property
    def band(self) -> Band:
        """The group of the place."""
        if self.state in ("lower", "beyond"):
            return "lower" if self.state == "lower" else "beyond"
        if self.state != "listed" or self.rank is None:
            return "absent"
        return "first" if self.rank == 1 else "top_5" if self.rank <= 5 else "listed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A candidate that is among the first k under one of the contracts only."""

    old: Place
    new: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPair:
    """A pair of the case that a person judged, by the judgement in force; ``conclusion`` is one of
    ``judgements.Conclusion``."""

    judgement_id: str
    conclusion: str
    old: Place
    new: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseComparison:
    """One open case. Pairs of figures are (old, new).

    ``photos``: enrolled; ``listed``: leads among the first k; ``overlap``: the share of the
    entries of both lists that the other list has too, 0 to 1 (``None``: both are empty);
    ``face_overlap``: the same of the faces that lead the entries; ``order``: Kendall's tau-b of
    the ranks of what both list, -1 to 1 (``None``: too few).
    """

    case_id: str
    photos: tuple[int, int]
    listed: tuple[int, int]
    overlap: float | None = None
    face_overlap: float | None = None
    order: float | None = None
    lost: tuple[Moved, ...]
    gained: tuple[Moved, ...]
    judged: tuple[JudgedPair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two generations as a whole.

    ``ad_images``: pictures that ads show, of which ``without_face`` were read and have no face in
    the gallery, ``failed`` could not be read, ``unread`` were not read yet. ``photos``: of open
    cases, of which ``not_enrolled`` were read in vain (``reasons``: by code) and ``photos_unread``
    not read yet. ``cases_without_photo``: open cases that have photos and none enrolled.
    ``images_per_second``: of the jobs that built it, by all processes together, while at least one
    ran (``None``: not built by such jobs); ``search_ms``: mean time of one list.
    """

    contract_id: str
    pack: str
    faces: int
    ad_images: int
    without_face: int
    failed: int
    unread: int
    photos: int
    not_enrolled: int
    photos_unread: int
    reasons: Mapping[str, int]
    cases_without_photo: int
    images_per_second: float | None
    search_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """So many judged pairs went from one band to another."""

    finding: Finding
    old: Band
    new: Band
    pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Worst:
    """A case whose lists differ most."""

    case_id: str
    overlap: float
    lost: int
    gained: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All open cases together. ``actor``: who compared; ``depth``: leads that were looked at in
    search of what is not among the first ``k``.

    ``cases``: open cases with a photo; ``overlap``, ``face_overlap``: means over those with an
    entry in at least one list; ``lost_to``: the places of what was lost, by state; ``gained_from``
    likewise; ``search_ratio``: time of the searches of the new over that of the old, in this run.
    """

    at: datetime
    actor: str
    k: int
    depth: int
    old: Side
    new: Side
    cases: int
    overlap: float | None
    face_overlap: float | None
    lost: int
    gained: int
    lost_to: Mapping[str, int]
    gained_from: Mapping[str, int]
    moves: tuple[Move, ...]
    worst: tuple[Worst, ...]
    search_ratio: float | None

    def pairs(self, finding: Finding) -> int:
        """How many pairs with this finding there are."""
        return sum(move.pairs for move in self.moves if move.finding == finding)
