"""One case in two generations: what each lists, and where the other has it.

Faces of two contracts are the same where they lie at the same place of the same picture
(``faces.same_place``), as in the memory of judged pairs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from indexer.batches import chunks
from indexer.candidates import Ranking, rank
from indexer.catalog.tables import CaptureImage, Face, GalleryMember, ImageAnalysis, Judgement
from indexer.enrolled import enrolled
from indexer.faces import apart, box_of, same_place
from indexer.generations.comparison import CaseComparison, JudgedPair, Moved, Place
from indexer.workspace import Workspace
from models.calibration import Shares, fuse
from models.types import Box, FloatArray

LEAST_FOR_ORDER: Final = 5
"""Entries in both lists from which a correlation of their ranks says anything."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A face in a picture under one contract; ``member``: whether it is in the gallery of ads."""

    face_id: str
    box: Box
    member: bool


@dataclass(slots=True)
class Lists:
    """A case under one contract. ``seconds``: how long its list of the first k took."""

    view: Workspace
    case_id: str
    k: int
    depth: int
    vectors: FloatArray
    joined: Shares
    top: Ranking
    seconds: float
    ranks: dict[str, int] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    deep: bool = False
    pictures: dict[str, list[_Seen]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)

    def note(self, ranking: Ranking) -> None:
        """Remember at which place the lead of each face of a ranking is, and its score."""
        order: dict[str, int] = {}
        for face in ranking.faces:
            place = order.setdefault(ranking.leads[face.face_id], len(order) + 1)
            self.ranks.setdefault(face.face_id, place)
            self.scores.setdefault(face.face_id, face.score)

    def place(self, sha256: str, box: Box) -> Place:
        """Where the face that lies there in a picture is."""
        if not len(self.vectors):
            return Place(state="no_photo")
        seen = _nearest(self.pictures.get(sha256, ()), box)
        if seen is None:
            return Place(state="no_face" if sha256 in self.read else "unread")
        if not seen.member:
            return Place(state="unread", face_id=seen.face_id)
        if seen.face_id not in self.ranks and not self.deep:
            self.deep = True
            self.note(rank(self.view, self.case_id, self.vectors, self.joined, self.depth))
        found = self.ranks.get(seen.face_id)
        if found is None:
            return Place(state="beyond", face_id=seen.face_id, score=self._score(seen.face_id))
        return Place(
            state="listed" if found <= self.k else "lower",
            face_id=seen.face_id,
            rank=found,
            score=self.scores[seen.face_id],
        )

    def _score(self, face_id: str) -> float | None:
        try:
            scores = self.view.ads.scores(self.vectors, [face_id])
        except KeyError:  # forgotten meanwhile
            return None
        return float(fuse(scores, self.joined)[0])


def compare_case(
    views: tuple[Workspace, Workspace], case_id: str, *, k: int, depth: int, swapped: bool
) -> tuple[CaseComparison, tuple[float, float]]:
    """One case in the old and the new generation, and the seconds that each list took.

    ``swapped``: the new one is searched first, so that neither always finds caches warm. Writes
    nothing. Raises what searching raises.
    """
    order = (1, 0) if swapped else (0, 1)
    looked = {side: _look(views[side], case_id, k, depth) for side in order}
    sides = looked[0], looked[1]
    with views[0].catalog.read() as session:
        judgements = _in_force(session, case_id)
        shas = {
            sides[i].top.sources[h.face_id].sha256 for i in (0, 1) for h in sides[i].top.heads()
        }
        shas |= {one.image_sha256 for one in judgements}
        for side in sides:
            side.pictures, side.read = _pictures(session, side.view.contract_id, shas)
    was, now = _entries(sides[0], sides[1]), _entries(sides[1], sides[0])
    lost = [Moved(old=own, new=there) for own, there in was if there.state != "listed"]
    gained = [Moved(old=there, new=own) for own, there in now if there.state != "listed"]
    entries = len(was) + len(now)
    heads = {own.face_id for own, _ in now}
    return (
        CaseComparison(
            case_id=case_id,
            photos=(len(sides[0].vectors), len(sides[1].vectors)),
            listed=(len(was), len(now)),
            overlap=(entries - len(lost) - len(gained)) / entries if entries else None,
            face_overlap=2 * sum(there.face_id in heads for _, there in was) / entries
            if entries
            else None,
            order=_order([(own.rank, there.rank) for own, there in was if there.state == "listed"]),
            lost=tuple(lost),
            gained=tuple(gained),
            judged=tuple(_judged(one, sides) for one in judgements),
        ),
        (sides[0].seconds, sides[1].seconds),
    )


def _look(view: Workspace, case_id: str, k: int, depth: int) -> Lists:
    with view.catalog.read() as session:
        _, vectors, joined = enrolled(session, view.contract_id, case_id)
    started = time.perf_counter()
    top = rank(view, case_id, vectors, joined, k)
    seconds = time.perf_counter() - started
    lists = Lists(view, case_id, k, depth, vectors, joined, top, seconds)
    lists.note(top)
    return lists


def _entries(own: Lists, other: Lists) -> list[tuple[Place, Place]]:
    """The entries of one list, in order, each with its place in the other."""
    found = []
    for at, head in enumerate(own.top.heads()[: own.k], start=1):
        sha256 = own.top.sources[head.face_id].sha256
        seen = next((s for s in own.pictures.get(sha256, ()) if s.face_id == head.face_id), None)
        if seen is None:
            continue  # forgotten since the search
        place = Place(state="listed", face_id=head.face_id, rank=at, score=head.score)
        found.append((place, other.place(sha256, seen.box)))
    return found


def _judged(one: Judgement, sides: tuple[Lists, Lists]) -> JudgedPair:
    box = box_of(one)
    return JudgedPair(
        judgement_id=one.judgement_id,
        conclusion=one.conclusion,
        old=sides[0].place(one.image_sha256, box),
        new=sides[1].place(one.image_sha256, box),
    )


def _in_force(session: Session, case_id: str) -> list[Judgement]:
    """The last judgement of each pair of the case whose picture an ad still shows."""
    rows = session.scalars(
        select(Judgement)
        .where(
            Judgement.case_id == case_id,
            select(CaptureImage.sha256)
            .where(CaptureImage.sha256 == Judgement.image_sha256)
            .exists(),
        )
        .order_by(Judgement.judgement_id.desc())
    )
    kept: dict[str, list[Judgement]] = {}
    for row in rows:
        boxes = kept.setdefault(row.image_sha256, [])
        if not any(same_place(box_of(row), box_of(later)) for later in boxes):
            boxes.append(row)
    return sorted((row for group in kept.values() for row in group), key=lambda r: r.judgement_id)


def _pictures(
    session: Session, contract_id: str, shas: Iterable[str]
) -> tuple[dict[str, list[_Seen]], set[str]]:
    """The faces of pictures under a contract, and which of the pictures were read under it."""
    found: dict[str, list[_Seen]] = {}
    read: set[str] = set()
    for some in chunks(sorted(shas)):
        rows = session.execute(
            select(
                Face.sha256, Face.face_id, Face.x, Face.y, Face.width, Face.height,
                GalleryMember.face_id.label("member"),
            )
            .outerjoin(
                GalleryMember,
                (GalleryMember.face_id == Face.face_id)
                & (GalleryMember.gallery == "ads")
                & (GalleryMember.contract_id == contract_id),
            )
            .where(Face.sha256.in_(some), Face.contract_id == contract_id)
        )  # fmt: skip
        for row in rows:
            box = Box(row.x, row.y, row.width, row.height)
            seen = _Seen(row.face_id, box, row.member is not None)
            found.setdefault(row.sha256, []).append(seen)
        read |= set(
            session.scalars(
                select(ImageAnalysis.sha256).where(
                    ImageAnalysis.sha256.in_(some),
                    ImageAnalysis.contract_id == contract_id,
                    ImageAnalysis.state == "done",
                )
            )
        )
    return found, read


def _nearest(seen: Sequence[_Seen], box: Box) -> _Seen | None:
    best = min(seen, key=lambda one: apart(one.box, box), default=None)
    return best if best is not None and same_place(best.box, box) else None


def _order(ranks: Sequence[tuple[int | None, int | None]]) -> float | None:
    """Kendall's tau-b of two ranks, of what both lists hold among the first k; two entries of one
    list may share a lead of the other, which is a tie (M. G. Kendall, *The treatment of ties in
    ranking problems*, Biometrika 33(3), 1945)."""
    both = [(a, b) for a, b in ranks if a is not None and b is not None]
    if len(both) < LEAST_FOR_ORDER:
        return None
    agree = tied_a = tied_b = total = 0
    for i, (a, b) in enumerate(both):
        for c, d in both[:i]:
            total += 1
            tied_a += a == c
            tied_b += b == d
            agree += _sign(a - c) * _sign(b - d)
    spread = math.sqrt((total - tied_a) * (total - tied_b))
    return agree / spread if spread else None


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)
