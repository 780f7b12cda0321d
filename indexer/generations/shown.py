"""A stored comparison as it may be shown now: its ids are looked up, and what is gone is left out.

Gone is a case that is not open any more or was deleted, a face that no ad shows any more, and a
judgement whose picture is not shown. The sums over all cases stay as they were.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from sqlalchemy import select, true
from sqlalchemy.orm import Session

from indexer.batches import chunks
from indexer.candidates import NO_FILTER, first_ads
from indexer.catalog.tables import CaptureImage, Case, Face, Judgement
from indexer.errors import CaseNotFound, ComparisonNotFound
from indexer.faces import face_record
from indexer.generations import reports, rows
from indexer.generations.comparison import CaseComparison, Comparison, Place, Worst
from indexer.records import AdSummary, FaceRecord
from indexer.searchable import clock, searchable
from indexer.workspace import Workspace

_AT_ONCE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownCase:
    """A case of a report without what is gone. ``faces``: all that its places name, by id;
    ``ads``: the ad that showed each picture first, by SHA-256; ``pictures``: SHA-256 of the
    picture of each judgement."""

    comparison: CaseComparison
    agency: str
    case_number: str
    faces: Mapping[str, FaceRecord]
    ads: Mapping[str, AdSummary]
    pictures: Mapping[str, str]

    def picture_of(self, *places: Place) -> str | None:
        """SHA-256 of the picture that these places of one face are about."""
        for place in places:
            if place.face_id is not None and place.face_id in self.faces:
                return self.faces[place.face_id].sha256
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownWorst:
    """One of the cases whose lists differ most."""

    worst: Worst
    agency: str
    case_number: str


def latest(ws: Workspace, contract_id: str) -> Comparison:
    """The newest comparison of a generation with one that was in use and is still there.

    Raises GenerationNotFound and :class:`ComparisonNotFound`.
    """
    with ws.catalog.read() as session:
        rows.find(session, contract_id)
        others = [one.contract_id for one in rows.others(session, contract_id)]
    found = reports.latest(ws.data_dir, contract_id, others)
    if found is None:
        raise ComparisonNotFound(contract_id)
    return found


def worst(ws: Workspace, whole: Comparison, *, agency: str | None = None) -> list[ShownWorst]:
    """The cases (``agency``: of its own) whose lists differ most, the worst first."""
    with ws.catalog.read() as session:
        named = _open_cases(session, [one.case_id for one in whole.worst], agency)
    return [
        ShownWorst(worst=one, agency=named[one.case_id][0], case_number=named[one.case_id][1])
        for one in whole.worst
        if one.case_id in named
    ]


def cases(
    ws: Workspace, whole: Comparison, *, after: str | None = None, agency: str | None = None
) -> Iterator[ShownCase]:
    """The cases of a report (``agency``: of its own) that come after a case id, by id; read as
    they are asked for."""
    found = (
        one for one in reports.cases(ws.data_dir, whole) if after is None or one.case_id > after
    )
    for some in chunks(found, _AT_ONCE):
        with ws.catalog.read() as session:
            shown = _shown(session, some, agency)
        yield from shown


def page(
    ws: Workspace,
    whole: Comparison,
    *,
    limit: int,
    after: str | None = None,
    agency: str | None = None,
) -> tuple[list[ShownCase], bool]:
    """At most ``limit`` cases after a case id, and whether there are more."""
    found = list(islice(cases(ws, whole, after=after, agency=agency), limit + 1))
    return found[:limit], len(found) > limit


def one_case(ws: Workspace, whole: Comparison, case_id: str) -> ShownCase:
    """One case of a report. Raises :class:`CaseNotFound` where it is not in it, or gone."""
    for one in reports.cases(ws.data_dir, whole):
        if one.case_id == case_id:
            with ws.catalog.read() as session:
                for shown in _shown(session, [one]):
                    return shown
    raise CaseNotFound(case_id)


def _shown(
    session: Session, some: Sequence[CaseComparison], agency: str | None = None
) -> list[ShownCase]:
    named = _open_cases(session, [one.case_id for one in some], agency)
    some = [one for one in some if one.case_id in named]
    faces = _faces_in_ads(session, {face_id for one in some for face_id in _face_ids(one)})
    judged = _pictures_of(session, {j.judgement_id for one in some for j in one.judged})
    shas = [face.sha256 for face in faces.values()]
    ads = first_ads(session, [*shas, *judged.values()], NO_FILTER)
    return [
        ShownCase(
            comparison=_left(one, faces, judged),
            agency=named[one.case_id][0],
            case_number=named[one.case_id][1],
            faces=faces,
            ads=ads,
            pictures=judged,
        )
        for one in some
    ]


def _left(one: CaseComparison, faces: Collection[str], judged: Collection[str]) -> CaseComparison:
    """A case without what is gone."""

    def there(*places: Place) -> bool:
        return all(place.face_id is None or place.face_id in faces for place in places)

    return replace(
        one,
        lost=tuple(moved for moved in one.lost if there(moved.old, moved.new)),
        gained=tuple(moved for moved in one.gained if there(moved.old, moved.new)),
        judged=tuple(
            pair for pair in one.judged if pair.judgement_id in judged and there(pair.old, pair.new)
        ),
    )


def _face_ids(one: CaseComparison) -> Iterator[str]:
    places = [place for moved in (*one.lost, *one.gained) for place in (moved.old, moved.new)]
    places += [place for pair in one.judged for place in (pair.old, pair.new)]
    return (place.face_id for place in places if place.face_id is not None)


def _open_cases(
    session: Session, case_ids: Collection[str], agency: str | None
) -> dict[str, tuple[str, str]]:
    """Agency and number of those that may be searched and, where it is given, of ``agency``."""
    mine = true() if agency is None else Case.agency == agency
    found: dict[str, tuple[str, str]] = {}
    for some in chunks(case_ids):
        for case_id, agency, number in session.execute(
            select(Case.case_id, Case.agency, Case.case_number).where(
                Case.case_id.in_(some), searchable(clock(session)), mine
            )
        ):
            found[case_id] = agency, number
    return found


def _faces_in_ads(session: Session, face_ids: Collection[str]) -> dict[str, FaceRecord]:
    """The faces of pictures that an ad shows."""
    found: dict[str, FaceRecord] = {}
    for some in chunks(sorted(face_ids)):
        shown = select(CaptureImage.sha256).where(CaptureImage.sha256 == Face.sha256).exists()
        for row in session.scalars(select(Face).where(Face.face_id.in_(some), shown)):
            found[row.face_id] = face_record(row)
    return found


def _pictures_of(session: Session, judgement_ids: Collection[str]) -> dict[str, str]:
    """The pictures of judgements, as far as an ad shows them."""
    found: dict[str, str] = {}
    for some in chunks(sorted(judgement_ids)):
        rows_ = session.execute(
            select(Judgement.judgement_id, Judgement.image_sha256)
            .join(CaptureImage, CaptureImage.sha256 == Judgement.image_sha256)
            .where(Judgement.judgement_id.in_(some))
            .distinct()
        )
        found.update((judgement_id, sha256) for judgement_id, sha256 in rows_)
    return found
