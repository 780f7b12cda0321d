"""Photos of unequal quality: each way of comparing gives the one score, to the last digit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from indexer import alerts, candidates, jobs
from indexer.catalog.tables import Candidate, Face
from indexer.enrolled import enrolled, limited_pictures
from indexer.workspace import Workspace, open_workspace
from models.calibration import fuse, shares
from models.types import Quality, QualityComponent
from tests.indexer.raising import add_candidate, raise_alert
from tests.indexer.small import JudgingAnalyser, colour, face_picture, vector_of
from tests.indexer.test_candidates import crowd, make_case, send
from tests.tables import lend_tables

GOOD, POOR, UNKNOWN, HERS = (colour(1, photo) for photo in (0, 1, 2, 9))
COVERED = Quality(0.7, (QualityComponent("clarity", 60.0, "% of a clear face", 0.64),))
QUALITIES = {
    GOOD: Quality(0.81),
    POOR: Quality(0.04, COVERED.components),
    UNKNOWN: Quality(math.nan, (QualityComponent("clarity", math.nan, "%", math.nan),)),
    HERS: COVERED,
}


@pytest.fixture
def ws(tmp_path: Path, catalog_url: str | None) -> Iterator[Workspace]:
    if catalog_url is None:
        lend_tables(tmp_path / "data")
    analyser = JudgingAnalyser(QUALITIES)
    with open_workspace(tmp_path / "data", analyser, catalog_url=catalog_url) as opened:
        yield opened


def expected(*photos: tuple[int, int, int]) -> float:
    vectors = np.stack([vector_of(photo) for photo in photos])
    known = {GOOD: 0.9, POOR: 0.2, UNKNOWN: 1.0}
    weights = np.array([known[photo] for photo in photos])
    cosines = vectors @ vector_of(HERS)
    length = np.linalg.norm((weights[:, None] * vectors).sum(axis=0))
    return float((cosines.max() + weights @ cosines / length) / 2)


def test_both_ways_of_the_watch_weigh_photos_by_their_quality(ws: Workspace) -> None:
    crowd(ws, 12)
    pictures = [face_picture(1, photo) for photo in (0, 1, 2)]
    early = make_case(ws, *pictures, number="early")
    jobs.run_pending(ws)
    send(ws, "hers", face_picture(1, 9))
    jobs.run_pending(ws)
    with ws.catalog.read() as session:
        told = session.query(Candidate).filter_by(case_id=early, origin="watchlist")
        stored = max(row.score for row in told)
    best = candidates.ranked(ws, early, 1).items[0]
    assert best.score == stored
    assert best.score == pytest.approx(expected(GOOD, POOR, UNKNOWN), abs=1e-6)
    late = make_case(ws, *pictures, number="late")
    jobs.run_pending(ws)
    assert candidates.ranked(ws, late, 1).items[0].score == stored
    # It does make a difference: the same photos without weights score otherwise.
    photos = np.stack([vector_of(photo) for photo in (GOOD, POOR, UNKNOWN)])
    alike = fuse((photos @ vector_of(HERS))[:, None], shares(photos, np.ones(3)))
    assert abs(float(alike[0]) - stored) > 1e-3


def test_a_score_that_was_stored_is_brought_up_to_date(ws: Workspace) -> None:
    """As those are that were stored when photos counted alike."""
    send(ws, "hers", face_picture(1, 9))
    case_id = make_case(ws, face_picture(1, 0), face_picture(1, 1))
    jobs.run_pending(ws)
    with ws.catalog.write() as session:
        session.query(Candidate).update({Candidate.score: 0.123})
    shown = candidates.ranked(ws, case_id).items[0]
    assert shown.score == pytest.approx(expected(GOOD, POOR), abs=1e-6)
    assert candidates.get_candidate(ws, shown.candidate_id).score == shown.score


def test_what_is_enrolled_comes_with_its_shares(ws: Workspace) -> None:
    case_id = make_case(ws, *(face_picture(1, photo) for photo in (0, 1, 2)))
    empty = make_case(ws, number="none")
    jobs.run_pending(ws)
    with ws.catalog.read() as session:
        face_ids, vectors, joined = enrolled(session, ws.contract_id, case_id)
        assert len(face_ids) == len(vectors) == 3
        assert joined.weights.tolist() == pytest.approx([0.9, 0.2, 1.0])
        none, nothing, alone = enrolled(session, ws.contract_id, empty)
    assert (none, len(nothing), len(alone.weights)) == ((), 0, 0)


def test_a_candidate_says_how_good_the_nearest_photo_is(ws: Workspace) -> None:
    send(ws, "hers", face_picture(1, 9))
    jobs.run_pending(ws)
    case_id = make_case(ws, face_picture(1, 1))
    item = candidates.ranked(ws, case_id).items[0]
    assert item.person_quality == QUALITIES[POOR]
    found = candidates.search_photo(ws, case_id, face_picture(1, 0), purpose="training")
    assert found.candidates.items[0].person_quality == QUALITIES[GOOD]


@pytest.mark.parametrize(("photo", "limited"), [(0, 1), (1, 2), (2, 1)])
def test_an_alert_knows_how_many_pictures_are_limited(
    ws: Workspace, photo: int, limited: int
) -> None:
    case_id = make_case(ws, face_picture(1, photo))
    send(ws, "hers", face_picture(1, 9))
    jobs.run_pending(ws)
    candidate_id = candidates.ranked(ws, case_id).items[0].candidate_id
    of_clear = add_candidate(ws, case_id, 7, "clear")
    for one in (candidate_id, of_clear):
        raise_alert(ws, case_id, one)
    found = [record.limited_pictures for record in alerts.list_alerts(ws).items]
    assert found == [limited, limited - 1]
    without = make_case(ws, number="without a photo")
    with ws.catalog.read() as session:
        face = session.get_one(Face, candidates.get_candidate(ws, candidate_id).face_id)
        pairs = [(case_id, face), (without, face), (case_id, None)]
        assert limited_pictures(session, pairs) == (limited, 1, 0)
