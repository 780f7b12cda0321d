"""Probing both ways, fusing photos, leads, ranks and stable ids."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from indexer import ads, candidates, cases, forget, jobs
from indexer.catalog.tables import Candidate
from indexer.errors import (
    CandidateNotFound,
    CaseClosed,
    CaseNotFound,
    NoFaceFound,
    PurposeRequired,
    SeveralFacesFound,
)
from indexer.ids import new_id
from indexer.probe import fused_search
from indexer.records import CaseInput, RankedCandidates, SearchFilter, Upload
from indexer.searches import list_searches
from indexer.workspace import Workspace
from models.calibration import fuse, shares
from tests.indexer.small import colour, face_picture, picture, vector_of
from tests.indexer.test_ads import NOON, ad


def make_case(ws: Workspace, *photos: bytes, number: str = "1") -> str:
    case_id = cases.create_case(ws, CaseInput(case_number=number)).case_id
    for photo in photos:
        cases.add_photo(ws, case_id, photo)
    return case_id


def send(ws: Workspace, external_id: str, *pictures: bytes, **fields: object) -> str:
    receipt = ads.receive_ad(ws, ad(external_id, **fields), [Upload(data) for data in pictures])
    return receipt.ad_id


def crowd(ws: Workspace, count: int, start: int = 100) -> None:
    for i in range(start, start + count):
        send(ws, f"crowd-{i}", face_picture(i))


def scores(ranked: RankedCandidates) -> list[float]:
    return [item.score for item in ranked.items]


def test_the_person_is_the_first_of_many(ws: Workspace) -> None:
    crowd(ws, 40)
    ad_id = send(ws, "hers", face_picture(1, 9), title="T", city="C", posted_at=NOON)
    jobs.run_pending(ws)
    case_id = make_case(ws, face_picture(1))
    result = candidates.ranked(ws, case_id, 20)
    assert result.gallery_size == 41
    assert result.contract_id == ws.contract_id
    assert len(result.items) == result.k == 20
    assert [item.rank for item in result.items] == list(range(1, 21))
    assert scores(result) == sorted(scores(result), reverse=True)
    first = result.items[0]
    expected = float(vector_of(colour(1)) @ vector_of(colour(1, 9)))
    assert first.score == pytest.approx(expected, abs=1e-6)
    assert first.score > result.items[1].score + 0.05
    assert (first.ad.ad_id, first.ad.title, first.ad.city) == (ad_id, "T", "C")
    assert first.photos_fused == 1
    assert first.status == "unreviewed"
    assert first.person_face_id == cases.get_case(ws, case_id).photos[0].face_id
    assert (first.lead.ads, first.lead.images) == (1, 1)
    assert first.lead.first_seen == first.lead.last_seen == NOON
    assert result.items[1].lead.first_seen is None


def test_ids_are_stable(ws: Workspace) -> None:
    crowd(ws, 10)
    jobs.run_pending(ws)
    case_id = make_case(ws, face_picture(1))
    first = candidates.ranked(ws, case_id, 5)
    jobs.run_pending(ws)
    second = candidates.ranked(ws, case_id, 10)
    assert [i.candidate_id for i in first.items] == [i.candidate_id for i in second.items[:5]]
    assert [i.lead.lead_id for i in first.items] == [i.lead.lead_id for i in second.items[:5]]
    assert candidates.get_candidate(ws, first.items[0].candidate_id).case_id == case_id
    with pytest.raises(CandidateNotFound):
        candidates.get_candidate(ws, new_id())


def test_several_photos_are_fused_into_one_score(ws: Workspace) -> None:
    crowd(ws, 30)
    send(ws, "hers", face_picture(1, 9))
    jobs.run_pending(ws)
    case_id = make_case(ws, face_picture(1, 0), face_picture(1, 1), face_picture(2, 0))
    result = candidates.ranked(ws, case_id, 31)
    assert result.photos_fused == 3
    photos = np.stack([vector_of(c) for c in (colour(1, 0), colour(1, 1), colour(2, 0))])
    hers = vector_of(colour(1, 9))
    expected = fuse((photos @ hers)[:, None], shares(photos, np.full(3, 0.5)))[0]
    assert result.items[0].score == pytest.approx(float(expected), abs=1e-6)
    nearest = int((photos @ hers).argmax())
    assert result.items[0].person_face_id == cases.get_case(ws, case_id).photos[nearest].face_id
    assert len(result.items) == 31
    assert all(item.photos_fused == 3 for item in result.items)


def test_fused_search_equals_brute_force(ws: Workspace) -> None:
    crowd(ws, 150)
    jobs.run_pending(ws)
    probes = np.stack([vector_of(colour(p)) for p in (1, 2, 3)])
    everything = np.stack([vector_of(colour(i)) for i in range(100, 250)])
    joined = shares(probes, np.array([1.0, 0.02, 0.3]))
    expected = np.sort(fuse((probes @ everything.T).astype(np.float32), joined))[::-1]
    for count in (1, 7, 150, 400):
        found = fused_search(ws.ads, probes, joined, count)
        assert len(found) == min(count, 150)
        np.testing.assert_allclose([f.score for f in found], expected[: len(found)], atol=1e-6)


def test_one_lead_for_one_ad_and_for_one_image(ws: Workspace) -> None:
    first = send(ws, "a", face_picture(1, 1), face_picture(1, 2), captured_at=NOON)
    for day in range(1, 6):
        send(ws, f"repost-{day}", face_picture(1, 1), captured_at=NOON + timedelta(days=day))
    send(ws, "apart", face_picture(1, 3))
    jobs.run_pending(ws)
    result = candidates.ranked(ws, make_case(ws, face_picture(1)), 10)
    assert len(result.items) == 2
    gathered = next(item for item in result.items if item.lead.ads > 1)
    assert (gathered.lead.ads, gathered.lead.images) == (6, 2)
    assert gathered.lead.first_seen == NOON
    assert gathered.lead.last_seen == NOON + timedelta(days=5)
    assert gathered.ad.ad_id == first, "the ad that showed the image first"


def test_wider_and_wider_until_k_leads_are_full(ws: Workspace) -> None:
    """One ad with many faces of the person must not crowd the others out."""
    for part in range(10):
        send(
            ws,
            "flood",
            *[face_picture(1, 1 + part * 9 + i) for i in range(9)],
            body=str(part),
        )
    crowd(ws, 12)
    jobs.run_pending(ws)
    result = candidates.ranked(ws, make_case(ws, face_picture(1)), 10)
    assert len(result.items) == 10
    assert result.items[0].lead.images == 90
    assert len({item.lead.lead_id for item in result.items}) == 10


def test_both_ways_give_the_same_candidates(ws: Workspace) -> None:
    crowd(ws, 8)
    early = make_case(ws, face_picture(1), number="early")
    jobs.run_pending(ws)
    ad_id = send(ws, "hers", face_picture(1, 9))
    jobs.run_pending(ws)
    with ws.catalog.read() as session:
        rows = session.query(Candidate).filter_by(case_id=early).all()
        assert {(row.origin, row.photos_fused) for row in rows} == {("watchlist", 1)}
        stored = max(row.score for row in rows)
    best = candidates.ranked(ws, early, 1).items[0]
    assert best.ad.ad_id == ad_id
    assert best.score == stored, "both ways compute one figure"
    late = make_case(ws, face_picture(1), number="late")
    jobs.run_pending(ws)
    with ws.catalog.read() as session:
        count = session.query(Candidate).filter_by(case_id=late, origin="ranking").count()
    assert count == 9


def test_search_states(ws: Workspace) -> None:
    case_id = make_case(ws)
    assert candidates.ranked(ws, case_id).search_state.state == "not_searched"
    assert candidates.ranked(ws, case_id).items == ()
    cases.add_photo(ws, case_id, face_picture(1))
    state = candidates.ranked(ws, case_id).search_state
    assert (state.state, state.up_to) == ("searching", None)
    before = datetime.now(UTC) - timedelta(seconds=1)
    jobs.run_pending(ws)
    state = candidates.ranked(ws, case_id).search_state
    assert state.state == "searched"
    assert state.up_to is not None
    assert state.up_to > before
    waiting = send(ws, "a", face_picture(5))
    received = ads.get_ad(ws, waiting).captures[0].received_at
    assert candidates.ranked(ws, case_id).search_state.up_to == received


def test_only_open_cases_are_searched(ws: Workspace) -> None:
    crowd(ws, 3)
    jobs.run_pending(ws)
    case_id = make_case(ws, face_picture(1))
    shown = candidates.ranked(ws, case_id).items
    assert len(shown) == 3
    cases.update_case(ws, case_id, {"status": "closed"})
    with pytest.raises(CaseClosed):
        candidates.ranked(ws, case_id)
    with pytest.raises(CaseClosed):
        candidates.search_photo(ws, case_id, face_picture(1), purpose="training")
    with pytest.raises(CandidateNotFound):
        candidates.get_candidate(ws, shown[0].candidate_id)
    send(ws, "hers", face_picture(1, 2))
    jobs.run_pending(ws)
    with ws.catalog.read() as session:
        assert session.query(Candidate).count() == 0
    with pytest.raises(CaseNotFound):
        candidates.ranked(ws, new_id())


def test_filters(ws: Workspace) -> None:
    send(ws, "old", face_picture(1, 1), posted_at=NOON, region="WA")
    send(ws, "new", face_picture(1, 2), posted_at=NOON + timedelta(days=9), region="OR")
    send(ws, "undated", face_picture(1, 3))
    send(ws, "again", face_picture(1, 1), posted_at=NOON + timedelta(days=20), region="OR")
    jobs.run_pending(ws)
    case_id = make_case(ws, face_picture(1))

    def shown(**fields: object) -> list[str]:
        filters = SearchFilter(**fields)  # type: ignore[arg-type]
        result = candidates.ranked(ws, case_id, 10, filters)
        return sorted(item.ad.external_id for item in result.items)

    assert shown() == ["new", "old", "undated"]
    assert shown(region="or") == ["again", "new"]
    assert shown(posted_before=NOON + timedelta(days=1)) == ["old"]
    assert shown(posted_after=NOON + timedelta(days=9)) == ["again", "new"]
    assert shown(site="EXAMPLE.test", region="wa") == ["old"]
    assert shown(site="elsewhere.test") == []


def test_search_with_a_photo_that_is_not_enrolled(ws: Workspace) -> None:
    crowd(ws, 5)
    send(ws, "hers", face_picture(1, 9))
    jobs.run_pending(ws)
    case_id = make_case(ws, face_picture(2))
    jobs.run_pending(ws)
    blobs = set(ws.blobs.digests())
    before = candidates.ranked(ws, case_id)
    found = candidates.search_photo(
        ws,
        case_id,
        face_picture(1, 4),
        purpose="verify_sighting",
        purpose_note="seen on the 3rd",
        actor="key-1",
        k=3,
    )
    assert found.candidates.items[0].ad.external_id == "hers"
    assert found.candidates.items[0].person_face_id is None
    assert len(found.candidates.items) == 3
    assert set(ws.blobs.digests()) == blobs, "the photo is not kept"
    assert scores(candidates.ranked(ws, case_id)) == scores(before)
    (record,) = list_searches(ws, case_id).items
    assert (record.actor, record.purpose, record.purpose_note) == (
        "key-1",
        "verify_sighting",
        "seen on the 3rd",
    )
    assert record.search_id == found.search_id
    assert (record.k, record.gallery_size) == (3, 6)
    assert record.candidate_ids == tuple(i.candidate_id for i in found.candidates.items)
    with pytest.raises(PurposeRequired):
        candidates.search_photo(ws, case_id, face_picture(1), purpose="")
    with pytest.raises(PurposeRequired):
        candidates.search_photo(ws, case_id, face_picture(1), purpose="curiosity")
    with pytest.raises(NoFaceFound):
        candidates.search_photo(ws, case_id, picture(), purpose="training")
    two = picture((5, 5, 40, colour(1)), (60, 60, 80, colour(2)))
    with pytest.raises(SeveralFacesFound):
        candidates.search_photo(ws, case_id, two, purpose="training")
    chosen = candidates.search_photo(ws, case_id, two, purpose="training", face_index=1)
    assert chosen.face_index == 1
    assert chosen.candidates.items[0].ad.external_id == "hers"
    assert len(list_searches(ws).items) == 2, "a refused search is no search"


def test_an_ad_forgotten_is_no_candidate(ws: Workspace) -> None:
    ad_id = send(ws, "hers", face_picture(1, 9))
    crowd(ws, 2)
    jobs.run_pending(ws)
    case_id = make_case(ws, face_picture(1))
    assert candidates.ranked(ws, case_id).items[0].ad.ad_id == ad_id
    forget.forget_ad(ws, ad_id)
    result = candidates.ranked(ws, case_id)
    assert [item.ad.external_id[:5] for item in result.items] == ["crowd", "crowd"]
    assert result.gallery_size == 2


def test_the_very_same_picture_scores_at_most_one(ws: Workspace) -> None:
    """Rounding may put the cosine of a vector with itself above 1."""
    for person in range(1, 60):
        send(ws, f"same-{person}", face_picture(person))
    jobs.run_pending(ws)
    for person in range(1, 60, 7):
        case_id = make_case(ws, face_picture(person), number=str(person))
        best = candidates.ranked(ws, case_id, 5).items[0]
        assert best.score <= 1.0
        assert best.score == pytest.approx(1.0, abs=1e-5)
    vector = np.full((1, 1), 1.0000002, dtype=np.float32)
    assert float(fuse(vector, shares(vector, np.ones(1)))[0]) == 1.0


def test_places_are_compared_without_case_in_every_script(ws: Workspace) -> None:
    send(ws, "a", face_picture(1), region="ÎLE-DE-FRANCE")
    send(ws, "b", face_picture(2), region="Bretagne")
    jobs.run_pending(ws)
    case_id = make_case(ws, face_picture(1))
    for region in ("Île-de-France", "ÎLE-DE-FRANCE", "île-de-france"):
        found = candidates.ranked(ws, case_id, 5, SearchFilter(region=region))
        assert [item.ad.external_id for item in found.items] == ["a"]


def test_forgetting_one_of_two_owners_spares_only_open_cases(ws: Workspace) -> None:
    first = make_case(ws, face_picture(1), number="A")
    second = make_case(ws, face_picture(1), number="B")
    cases.update_case(ws, second, {"status": "found"})
    assert ws.cases.count() == 1
    photo = cases.get_case(ws, first).photos[0]
    forget.forget_photo(ws, first, photo.photo_id, actor="tester")
    assert ws.cases.count() == 0
