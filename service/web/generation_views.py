"""What the pages show of generations and their comparison, put into words. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select

from indexer import cases
from indexer.catalog.tables import Case
from indexer.errors import FaceNotFound
from indexer.generations import rows, shown
from indexer.generations.comparison import (
    BANDS,
    FINDINGS,
    CaseComparison,
    Comparison,
    Finding,
    Place,
    Side,
)
from indexer.generations.shown import ShownCase, ShownWorst
from indexer.images import get_face
from indexer.records import AdSummary
from indexer.workspace import Workspace
from models.errors import HomewardError
from service.generations import Listed
from service.web import texts

CASES_ON_A_PAGE: Final = 50

_COUNTS: Final = (
    *("faces", "ad_images", "without_face", "failed", "unread", "photos", "not_enrolled"),
    *("photos_unread", "cases_without_photo"),
)


@dataclass(frozen=True, slots=True)
class Crosstab:
    """Judged pairs with one finding: where they were (rows) and are (columns)."""

    finding: Finding
    pairs: int
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class CaseRow:
    """One case in the table of a comparison."""

    case_id: str
    agency: str
    number: str
    overlap: str
    order: str
    lost: int
    gained: int
    judged: int
    photos: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ComparisonView:
    """A comparison in words. ``changed``: another generation is in use now."""

    whole: Comparison
    changed: bool
    facts: tuple[tuple[str, str], ...]
    tables: tuple[Crosstab, ...]
    sides: tuple[tuple[str, str, str], ...]
    worst: tuple[ShownWorst, ...]
    cases: tuple[CaseRow, ...]
    next_after: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A face of an ad with its place under both contracts. ``crop``: the address of the face."""

    crop: str | None
    old: str
    new: str
    old_score: str
    new_score: str
    ad: AdSummary | None
    conclusion: str | None


@dataclass(frozen=True, slots=True)
class ComparedCase:
    """One case of a comparison in words."""

    whole: Comparison
    case_id: str
    number: str
    overlap: str
    photos: tuple[str, ...]
    lost: tuple[Entry, ...]
    gained: tuple[Entry, ...]
    judged: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class SwitchView:
    """What is said before a generation is brought into use. ``problem``: why it cannot be."""

    listed: Listed
    open_cases: int
    days: str
    uncalibrated: bool
    problem: HomewardError | None


def switch_view(ws: Workspace, listed: Listed, keep_days: float) -> SwitchView:
    """What bringing this generation into use would do."""
    problem: HomewardError | None = None
    uncalibrated = False
    try:
        uncalibrated = ws.views.loaded(listed.generation.contract_id).calibration is None
    except HomewardError as error:
        problem = error
    with ws.catalog.read() as session:
        count = session.scalar(select(func.count()).select_from(Case).where(Case.status == "open"))
    return SwitchView(listed, count or 0, f"{keep_days:g}", uncalibrated, problem)


def comparison_view(
    ws: Workspace, contract_id: str, *, after: str | None, agency: str | None
) -> ComparisonView:
    """The newest comparison of a generation, with the cases of one agency or of all.

    Raises GenerationNotFound and ComparisonNotFound."""
    whole = shown.latest(ws, contract_id)
    with ws.catalog.read() as session:
        in_use = rows.active_id(session)
    found, more = shown.page(ws, whole, limit=CASES_ON_A_PAGE, after=after, agency=agency)
    return ComparisonView(
        whole=whole,
        changed=in_use not in (whole.old.contract_id, whole.new.contract_id),
        facts=tuple(_facts(whole)),
        tables=tuple(_table(whole, finding) for finding in FINDINGS if whole.pairs(finding)),
        sides=tuple(_sides(whole)),
        worst=tuple(shown.worst(ws, whole, agency=agency)),
        cases=tuple(_row(one) for one in found),
        next_after=found[-1].comparison.case_id if more else None,
    )


def compared_case(ws: Workspace, contract_id: str, case_id: str) -> ComparedCase:
    """One case of the newest comparison. Raises as above, and CaseNotFound."""
    whole = shown.latest(ws, contract_id)
    one = shown.one_case(ws, whole, case_id)
    found = one.comparison
    conclusions: dict[str | None, str] = {
        place.face_id: pair.conclusion
        for pair in found.judged
        for place in (pair.old, pair.new)
        if place.face_id is not None
    }

    def entry(old: Place, new: Place, sha256: str | None, conclusion: str | None) -> Entry:
        face_id = old.face_id or new.face_id
        return Entry(
            crop=None if face_id is None else f"/faces/{face_id}",
            old=place_text(old, whole),
            new=place_text(new, whole),
            old_score=_score(old, whole.old),
            new_score=_score(new, whole.new),
            ad=None if sha256 is None else one.ads.get(sha256),
            conclusion=conclusion or conclusions.get(old.face_id) or conclusions.get(new.face_id),
        )

    return ComparedCase(
        whole=whole,
        case_id=case_id,
        number=one.case_number,
        overlap=_share(found.overlap),
        photos=tuple(_photo_crops(ws, case_id)),
        lost=tuple(entry(m.old, m.new, one.picture_of(m.old, m.new), None) for m in found.lost),
        gained=tuple(entry(m.old, m.new, one.picture_of(m.new, m.old), None) for m in found.gained),
        judged=tuple(
            entry(pair.old, pair.new, one.pictures[pair.judgement_id], pair.conclusion)
            for pair in found.judged
        ),
    )


def place_text(place: Place, whole: Comparison) -> str:
    """A place in words."""
    return texts.text(f"place.{place.state}", rank=place.rank, depth=whole.depth)


def _score(place: Place, side: Side) -> str:
    if place.score is None:
        return ""
    score = f"{place.score:.3f}"
    return texts.text("compared.score", score=score, contract=side.contract_id)


def _photo_crops(ws: Workspace, case_id: str) -> list[str]:
    crops = []
    for photo in cases.get_case(ws, case_id).photos:
        try:
            crops.append(f"/faces/{get_face(ws, photo.face_id).face_id}")
        except FaceNotFound:
            continue
    return crops


def _facts(whole: Comparison) -> list[tuple[str, str]]:
    facts = [
        (texts.text("comparison.cases"), f"{whole.cases:,}"),
        (texts.text("comparison.overlap"), _mean(whole.overlap)),
        (texts.text("comparison.face_overlap"), _mean(whole.face_overlap)),
        (texts.text("comparison.lost"), f"{whole.lost:,}"),
        *_states(texts.text("comparison.lost_to"), whole.lost_to, whole.depth),
        (texts.text("comparison.gained"), f"{whole.gained:,}"),
        *_states(texts.text("comparison.gained_from"), whole.gained_from, whole.depth),
    ]
    if whole.search_ratio is not None:
        ratio = texts.text("comparison.ratio", ratio=f"{whole.search_ratio:.2f}")
        facts.append((texts.text("comparison.slower"), ratio))
    return facts


def _states(name: str, states: Mapping[str, int], depth: int) -> list[tuple[str, str]]:
    if not states:
        return []
    told = [
        f"{texts.text(f'place.short.{state}', depth=depth)}: {count:,}"
        for state, count in states.items()
    ]
    return [(name, ", ".join(told))]


def _mean(value: float | None) -> str:
    if value is None:
        return texts.text("comparison.none")
    return texts.text("comparison.mean", share=f"{value:.1%}")


def _share(value: float | None) -> str:
    return texts.text("comparison.none") if value is None else f"{value:.0%}"


def _table(whole: Comparison, finding: Finding) -> Crosstab:
    least = {"top_5": 1, "listed": 5}
    bands = [band for band in BANDS if whole.k > least.get(band, 0)]
    values = {"top": min(5, whole.k), "k": whole.k, "depth": whole.depth}
    words = [texts.text(f"place.band.{band}", **values) for band in bands]
    pairs = {(m.old, m.new): m.pairs for m in whole.moves if m.finding == finding}
    counted: list[tuple[str, tuple[int, ...]]] = []
    for word, before in zip(words, bands, strict=True):
        row = tuple(pairs.get((before, after), 0) for after in bands)
        if any(row):
            counted.append((word, row))
    return Crosstab(finding, whole.pairs(finding), tuple(words), tuple(counted))


def _sides(whole: Comparison) -> list[tuple[str, str, str]]:
    old, new = whole.old, whole.new
    table = [(texts.label("side", "pack"), old.pack, new.pack)]
    for name in _COUNTS:
        table.append(
            (texts.label("side", name), f"{getattr(old, name):,}", f"{getattr(new, name):,}")
        )
    for name in ("images_per_second", "search_ms"):
        values: Sequence[float | None] = (getattr(old, name), getattr(new, name))
        first, second = (
            texts.text("side.unknown") if value is None else f"{value:,.1f}" for value in values
        )
        table.append((texts.label("side", name), first, second))
    return table


def _row(one: ShownCase) -> CaseRow:
    found: CaseComparison = one.comparison
    return CaseRow(
        case_id=found.case_id,
        agency=one.agency,
        number=one.case_number,
        overlap=_share(found.overlap),
        order="" if found.order is None else f"{found.order:.2f}",
        lost=len(found.lost),
        gained=len(found.gained),
        judged=len(found.judged),
        photos=found.photos,
    )
