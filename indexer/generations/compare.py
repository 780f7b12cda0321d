"""Comparing two generations before the switch: what changes for every open case.

Reads only: no candidate, lead, alert or record of a search comes of it. Who compared what, when,
is in the report that is kept (``reports``).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Final

from sqlalchemy import func, select

from indexer.catalog.tables import Case, Photo
from indexer.errors import GenerationStateInvalid
from indexer.generations import reports, rows
from indexer.generations.comparing import compare_case
from indexer.generations.comparison import (
    BANDS,
    FINDING_OF,
    FINDINGS,
    CaseComparison,
    Comparison,
    Move,
    Side,
    Worst,
)
from indexer.generations.figures import build_rate, enrolled_figures
from indexer.generations.rows import Generation
from indexer.records import Progress
from indexer.searchable import clock, searchable
from indexer.times import utc_now
from indexer.workspace import Workspace

LEAST_DEPTH: Final = 100
"""Leads that are looked at in search of a lost candidate, if not five times k."""
WORST: Final = 10
_CASES_AT_ONCE: Final = 200


@dataclass(slots=True)
class _Totals:
    """What is added up over the cases."""

    cases: int = 0
    listed: int = 0
    overlap: float = 0.0
    face_overlap: float = 0.0
    lost_to: Counter[str] = field(default_factory=Counter)
    gained_from: Counter[str] = field(default_factory=Counter)
    moves: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    worst: list[tuple[float, int, str, int, int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=lambda: [0.0, 0.0])
    searches: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, one: CaseComparison, seconds: tuple[float, float]) -> None:
        self.cases += 1
        for side in (0, 1):
            if one.photos[side]:
                self.seconds[side] += seconds[side]
                self.searches[side] += 1
        self.lost_to.update(moved.new.state for moved in one.lost)
        self.gained_from.update(moved.old.state for moved in one.gained)
        self.moves.update(
            (FINDING_OF[pair.conclusion], pair.old.band, pair.new.band) for pair in one.judged
        )
        if one.overlap is None or one.face_overlap is None:
            return
        self.listed += 1
        self.overlap += one.overlap
        self.face_overlap += one.face_overlap
        changed = len(one.lost) + len(one.gained)
        if changed:
            # The least of the heap is the least changed; ids make equal ones differ.
            entry = (-one.overlap, changed, one.case_id, len(one.lost), len(one.gained))
            heapq.heappush(self.worst, entry)
            if len(self.worst) > WORST:
                heapq.heappop(self.worst)

    def mean_ms(self, side: int) -> float | None:
        if not self.searches[side]:
            return None
        return 1000 * self.seconds[side] / self.searches[side]


def compare(
    ws: Workspace,
    contract_id: str,
    *,
    k: int = 20,
    actor: str,
    progress: Callable[[Progress], None] | None = None,
) -> Comparison:
    """Compare a generation with the one in use over all open cases, and keep the report.

    Both are searched exactly, for the first ``k`` leads of each case; the face packs are not
    needed. A generation that is not whole can be compared: the report says what is missing.

    Raises GenerationNotFound, :class:`GenerationStateInvalid` (for the one in use and for one that
    is being dropped), and the StorageError tree.
    """
    old, new = _pair(ws, contract_id)
    views = ws.views.view(old.contract_id), ws.views.view(new.contract_id)
    depth = max(LEAST_DEPTH, 5 * k)
    totals = _Totals()
    with ws.catalog.read() as session:
        total = session.scalar(
            select(func.count(Photo.case_id.distinct()))
            .join(Case, Case.case_id == Photo.case_id)
            .where(searchable(clock(session)))
        )
    with reports.draft(ws.data_dir) as draft:
        for case_id in _open_cases(ws):
            swapped = bool(totals.cases % 2)
            one, seconds = compare_case(views, case_id, k=k, depth=depth, swapped=swapped)
            totals.add(one, seconds)
            draft.add(one)
            if progress is not None:
                done = totals.cases
                progress(Progress(stage="compare", done=done, total=max(done, total or 0)))
        whole = _whole(ws, old, new, totals, actor=actor, k=k, depth=depth)
        # One of them may have been dropped since: its reports went then, and this one stays out.
        _pair(ws, contract_id, old)
        draft.publish(whole)
    return whole


def _pair(
    ws: Workspace, contract_id: str, in_use: Generation | None = None
) -> tuple[Generation, Generation]:
    """The generation in use (or ``in_use``, if it is there still) and the other."""
    with ws.catalog.read() as session:
        new = rows.find(session, contract_id)
        old = rows.active(session) if in_use is None else rows.find(session, in_use.contract_id)
    if old is None or old.contract_id == contract_id:
        raise GenerationStateInvalid(
            f"The generation {contract_id} is in use: it is the one that others are compared with.",
            remedy="Name another one; see `homeward generations list`.",
        )
    for one in (old, new):
        if one.state == "dropping":
            raise GenerationStateInvalid(
                f"The generation {one.contract_id} is being dropped.",
                remedy="See `homeward generations list`.",
            )
    return old, new


def _open_cases(ws: Workspace) -> Iterator[str]:
    """Cases that may be searched and have a photo, by id. Those that come meanwhile may be
    among them."""
    after = ""
    while True:
        with ws.catalog.read() as session:
            some = session.scalars(
                select(Case.case_id)
                .where(
                    searchable(clock(session)),
                    Case.case_id > after,
                    select(Photo.photo_id).where(Photo.case_id == Case.case_id).exists(),
                )
                .order_by(Case.case_id)
                .limit(_CASES_AT_ONCE)
            ).all()
        if not some:
            return
        yield from some
        after = some[-1]


def _whole(
    ws: Workspace,
    old: Generation,
    new: Generation,
    totals: _Totals,
    *,
    actor: str,
    k: int,
    depth: int,
) -> Comparison:
    means = totals.mean_ms(0), totals.mean_ms(1)
    return Comparison(
        at=utc_now(),
        actor=actor,
        k=k,
        depth=depth,
        old=_side(ws, old, means[0]),
        new=_side(ws, new, means[1]),
        cases=totals.cases,
        overlap=totals.overlap / totals.listed if totals.listed else None,
        face_overlap=totals.face_overlap / totals.listed if totals.listed else None,
        lost=totals.lost_to.total(),
        gained=totals.gained_from.total(),
        lost_to=dict(totals.lost_to),
        gained_from=dict(totals.gained_from),
        moves=tuple(
            Move(finding=finding, old=before, new=after, pairs=pairs)
            for finding in FINDINGS
            for before in BANDS
            for after in BANDS
            if (pairs := totals.moves[finding, before, after])
        ),
        worst=tuple(
            Worst(case_id=case_id, overlap=-less, lost=lost, gained=gained)
            for less, _, case_id, lost, gained in sorted(totals.worst, reverse=True)
        ),
        search_ratio=means[1] / means[0] if means[0] and means[1] else None,
    )


def _side(ws: Workspace, one: Generation, search_ms: float | None) -> Side:
    with ws.catalog.read() as session:
        return Side(
            contract_id=one.contract_id,
            pack=one.pack,
            images_per_second=build_rate(session, one.contract_id),
            search_ms=search_ms,
            **asdict(enrolled_figures(session, one.contract_id)),
        )
